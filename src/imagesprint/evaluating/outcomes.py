"""What a model made of each image of a split: the one thing that an evaluation computes, and all figures follow from.

Every rank writes the images that it judged into a table of zeros, and the tables are summed. So each figure is the
same, to the bit, on any number of ranks.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from imagesprint.evaluating.metrics import hits
from imagesprint.loading.batch import Batch

COLUMNS = 6  # seen, top-1, top-5, loss, predicted class, its probability


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Row i is the i-th image of the split: `top1`, `top5` bool [N]; `loss` float64 [N], its cross-entropy;
    `predicted` int64 [N], the first class, and `probability` float64 [N], 0..1, that the model gave it.
    """

    top1: NDArray[np.bool_]
    top5: NDArray[np.bool_]
    loss: NDArray[np.float64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.top1)


def blank_table(num_images: int, device: torch.device) -> Tensor:
    """A table for `judge` to fill; its last row is where padding goes, which nobody reads."""
    return torch.zeros(num_images + 1, COLUMNS, dtype=torch.float64, device=device)


@torch.inference_mode()
def judge(model: Callable[[Tensor], Tensor], batches: Iterable[Batch], table: Tensor) -> None:
    """Write what `model`, which takes uint8 images and gives logits, makes of `batches` into `table`, on its device."""
    padding = len(table) - 1
    for batch in batches:
        images, labels = batch.images.to(table.device), batch.labels.to(table.device)
        rows = torch.where(batch.mask, batch.sample_ids, padding).to(table.device)
        logits = model(images).float()
        probability, predicted = logits.softmax(1).max(1)
        losses = F.cross_entropy(logits, labels, reduction="none")
        seen = torch.ones_like(losses)
        columns = (seen, *hits(logits, labels).unbind(1), losses, predicted, probability)
        table[rows] = torch.stack([column.double() for column in columns], dim=1)


def read_table(table: Tensor) -> Outcomes | None:
    """What a table, summed over the ranks, says; None where its images were not judged."""
    seen, top1, top5, loss, predicted, probability = table[:-1].cpu().numpy().T
    if not seen.all():
        return None
    return Outcomes(top1 > 0, top5 > 0, loss, predicted.astype(np.int64), probability)
