"""Evaluation of a trained model: every image of the split once, exact counts for any world size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from imagesprint.errors import DataError
from imagesprint.evaluating.metrics import correct_counts
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.weights import TrainedModel
from imagesprint.records.dataset import Dataset, Root
from imagesprint.runs.ranks import Ranks


@dataclass(frozen=True)
class Accuracy:
    """`top1` and `top5` in percent and the mean cross-entropy `loss` over `num_images`.

    `fallbacks` of the images were decoded by Pillow because the native decoder, which is at work, cannot.
    """

    num_images: int
    top1: float
    top5: float
    loss: float
    fallbacks: int

    def figures(self) -> dict[str, Any]:
        """What is kept of an evaluation."""
        return {"num_images": self.num_images, "top1": self.top1, "top5": self.top5, "loss": self.loss}


def evaluation_set(root: Root, model: TrainedModel) -> Dataset:
    """The validation split that the model's recipe evaluates on. Raises DataError where its classes differ."""
    if root.classes != model.classes:
        raise DataError(
            f"the model knows {len(model.classes)} classes, {root.path} holds {len(root.classes)}, "
            "or they have other names",
            "evaluate on data prepared from the same classes",
        )
    return root.dataset(root.nearest(model.recipe.eval_source), "validation")


@torch.inference_mode()
def evaluate(model: TrainedModel, dataset: Dataset, ranks: Ranks) -> Accuracy:
    """Judge `model`, which is on the ranks' device, in fp32 on all images of `dataset`.

    Images come in padded batches of fixed size dealt to the ranks, so that no count depends on their number.
    Returns the same on every rank.
    """
    recipe = model.recipe
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    loader = EvaluationLoader(
        dataset,
        image_size=recipe.eval_image_size,
        resize=recipe.eval_resize,
        batch_size=recipe.eval_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        threads=ranks.threads,
    )
    model.eval()
    with loader:
        for batch in loader:
            labels, mask = batch.labels.to(ranks.device), batch.mask.to(ranks.device)
            logits = model(batch.images.to(ranks.device))
            losses = F.cross_entropy(logits, labels, reduction="none")
            sums[0] += torch.where(mask, losses, 0).double().sum()
            sums[1:3] += correct_counts(logits, labels, mask)
            sums[3] += mask.sum()
    ranks.sum(sums)
    loss, top1, top5, count = ranks.read(sums)
    fallbacks = ranks.total(loader.fallbacks)
    return Accuracy(int(count), 100 * top1 / count, 100 * top5 / count, loss / count, fallbacks)


def evaluation_row(accuracy: Accuracy, step: int, epoch: float, checkpoint: Path | None) -> dict[str, Any]:
    """A row of evaluations.jsonl; `checkpoint` is relative to the run, None where none was written at this step."""
    return {
        "step": step,
        "epoch": epoch,
        **accuracy.figures(),
        "checkpoint": None if checkpoint is None else str(checkpoint),
    }
