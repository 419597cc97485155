"""Evaluation of a model: every image of the split once, exact counts for any world size.

Every rank writes the images that it judged into a table of zeros, and the tables are summed. So each figure is the
same, to the bit, on any number of ranks.

In what arithmetic is said beside each figure (`evaluation_precision`): fp32, but on a GPU that has TF32 in that, which
is what its matrix units do. What it changes, and why bf16 is not good enough, was measured by emulation on a CPU:
benchmarks/results/2026-11-29-evaluation-precision.md.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.errors import DataError
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.records.dataset import Dataset, Root
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import EvaluationRow


@dataclass(frozen=True)
class Accuracy:
    """`top1` and `top5` in percent and the mean cross-entropy `loss` over `num_images`.

    `mean_class_accuracy` is the mean, over the classes that have images, of the share of each that is right, in
    percent: a class of few counts as much as one of many. `precision` is that of `evaluation_precision`. `fallbacks` of
    the images were decoded by Pillow because the native decoder, which is at work, cannot.
    """

    num_images: int
    top1: float
    top5: float
    mean_class_accuracy: float
    loss: float
    precision: str
    fallbacks: int


def evaluation_precision(device: torch.device) -> str:
    """The arithmetic of evaluations on `device`: "tf32" on a GPU that has it (NVIDIA's since the A100), else "fp32".

    tf32 is fp32 but for convolutions: they read 10 of the 23 bits of their inputs' and weights' mantissa.
    """
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if has_tf32 else "fp32"


@contextmanager
def evaluation_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute in `evaluation_precision`, and behind it as before."""
    if evaluation_precision(device) == "fp32":  # which `open_ranks` set for all else
        yield
        return
    cudnn = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, True
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


def evaluate(model: TrainedModel, dataset: Dataset, ranks: Ranks) -> Accuracy:
    """Judge `model`, which is on the ranks' device, on all images of `dataset`.

    Images come in batches that do not depend on the ranks, which they are dealt to: no more do the figures.
    Returns the same on every rank.
    """
    recipe = model.recipe
    table = blank_table(len(dataset), ranks.device)
    loader = EvaluationLoader(
        dataset,
        image_size=recipe.eval_image_size,
        resize=recipe.eval_resize,
        batch_size=recipe.eval_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        threads=ranks.threads,
        shape=recipe.eval_shape,
    )
    model.eval()
    with loader:
        judge(model, loader, table)
    ranks.sum(table)
    fallbacks = ranks.total(loader.fallbacks)  # read first: it names a rank that does not answer
    outcomes = read_table(table)
    assert outcomes is not None, "the ranks' shares do not make up the split"
    return accuracy(outcomes, dataset.labels, evaluation_precision(ranks.device), fallbacks)


def evaluation_set(root: Root, model: TrainedModel) -> Dataset:
    """The validation split that the model's recipe evaluates on. Raises DataError where its classes differ."""
    check_classes(root, model.classes)
    return root.dataset(root.nearest(model.recipe.eval_source), "validation")


def check_classes(root: Root, classes: tuple[str, ...]) -> None:
    """Raise DataError where the classes of `root` are not those of a model."""
    if root.classes != classes:
        raise DataError(
            f"the model knows {len(classes)} classes, {root.path} holds {len(root.classes)}, or they have other names",
            "evaluate on data prepared from the same classes",
        )


def evaluation_row(accuracy: Accuracy, step: int, epoch: float, checkpoint: Path | None) -> EvaluationRow:
    """A row of evaluations.jsonl; `checkpoint` is relative to the run, None where none was written at this step."""
    return EvaluationRow(
        step=step,
        epoch=epoch,
        num_images=accuracy.num_images,
        top1=accuracy.top1,
        top5=accuracy.top5,
        loss=accuracy.loss,
        checkpoint=None if checkpoint is None else str(checkpoint),
        precision=accuracy.precision,
        mean_class_accuracy=accuracy.mean_class_accuracy,
    )


COLUMNS = 6  # of a table: seen, top-1, top-5, loss, predicted class, its probability


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
        with evaluation_arithmetic(table.device):
            logits = model(images).float()
        note(logits, labels, rows, table)


def note(logits: Tensor, labels: Tensor, rows: Tensor, table: Tensor) -> None:
    """Write what `logits`, float32 [N, C], say of images with `labels`, int64 [N], into their `rows` of `table`."""
    probability, predicted = logits.softmax(1).max(1)
    losses = F.cross_entropy(logits, labels, reduction="none")
    seen = torch.ones_like(losses)
    columns = (seen, *hits(logits, labels).unbind(1), losses, predicted, probability)
    table[rows] = torch.stack([column.double() for column in columns], dim=1)


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


def read_table(table: Tensor) -> Outcomes | None:
    """What a table, summed over the ranks, says; None where its images were not judged."""
    seen, top1, top5, loss, predicted, probability = table[:-1].cpu().numpy().T
    if not seen.all():
        return None
    return Outcomes(top1 > 0, top5 > 0, loss, predicted.astype(np.int64), probability)


def accuracy(outcomes: Outcomes, labels: NDArray[np.int32], precision: str, fallbacks: int = 0) -> Accuracy:
    """The figures of all images together, whose true classes are `labels` [N], and which were judged in `precision`."""
    top1, top5 = (100 * int(right.sum()) / len(outcomes) for right in (outcomes.top1, outcomes.top5))
    mean = mean_class_accuracy(outcomes.top1, labels)
    return Accuracy(len(outcomes), top1, top5, mean, float(outcomes.loss.mean()), precision, fallbacks)


def mean_class_accuracy(right: NDArray[np.bool_], labels: NDArray[np.int32]) -> float:
    """The mean over the classes among `labels` [N] of the share of `right` [N], in percent: the same bits anywhere."""
    counts, hit = np.bincount(labels), np.bincount(labels, weights=right)
    judged = counts > 0
    return math.fsum(100 * hit[judged] / counts[judged]) / int(judged.sum())


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each of `labels` [N] is the first, and among the first five, of `logits` [N, C]: bool [N, 2].

    With fewer than five classes it is always among the first five.
    """
    right = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack((right[:, 0], right.any(1)), dim=1)


def correct_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of `labels` [N] are the first, and among the first five, of `logits` [N, C]: int64 [2] on the device."""
    return hits(logits, labels).sum(0)
