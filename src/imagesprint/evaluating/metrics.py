"""Right answers, by image and counted."""

import torch
from torch import Tensor


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each of `labels` [N] is the first, and among the first five, of `logits` [N, C]: bool [N, 2].

    With fewer than five classes it is always among the first five.
    """
    right = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack((right[:, 0], right.any(1)), dim=1)


def correct_counts(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """How many of `labels` [N] are the first, and among the first five, of `logits` [N, C]: int64 [2] on the device.

    Samples where `mask` [N] is False do not count. With fewer than five classes top-5 is the share of all.
    """
    right = hits(logits, labels)
    if mask is not None:
        right = right & mask[:, None]
    return right.sum(0)
