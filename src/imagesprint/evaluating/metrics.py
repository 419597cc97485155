"""Counts of right answers."""

import torch
from torch import Tensor


def correct_counts(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """How many of `labels` [N] are the first, and among the first five, of `logits` [N, C]: int64 [2] on the device.

    Samples where `mask` [N] is False do not count. With fewer than five classes top-5 is the share of all.
    """
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = top == labels[:, None]
    if mask is not None:
        hits = hits & mask[:, None]
    return torch.stack((hits[:, :1].sum(), hits.sum()))
