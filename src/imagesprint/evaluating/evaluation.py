"""Evaluation of a trained model: every image of the split once, exact counts for any world size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesprint.errors import DataError
from imagesprint.evaluating.outcomes import Outcomes, blank_table, judge, read_table
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.weights import TrainedModel
from imagesprint.records.dataset import Dataset, Root
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import EvaluationRow


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
    check_classes(root, model)
    return root.dataset(root.nearest(model.recipe.eval_source), "validation")


def check_classes(root: Root, model: TrainedModel) -> None:
    """Raise DataError where the classes of `root` are not those of the model."""
    if root.classes != model.classes:
        raise DataError(
            f"the model knows {len(model.classes)} classes, {root.path} holds {len(root.classes)}, "
            "or they have other names",
            "evaluate on data prepared from the same classes",
        )


def evaluate(model: TrainedModel, dataset: Dataset, ranks: Ranks) -> Accuracy:
    """Judge `model`, which is on the ranks' device, in fp32 on all images of `dataset`.

    Images come in padded batches of fixed size dealt to the ranks, so that no figure depends on their number.
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
    )
    model.eval()
    with loader:
        judge(model, loader, table)
    ranks.sum(table)
    fallbacks = ranks.total(loader.fallbacks)  # read first: it names a rank that does not answer
    outcomes = read_table(table)
    assert outcomes is not None, "the ranks' shares do not make up the split"
    return accuracy(outcomes, fallbacks)


def accuracy(outcomes: Outcomes, fallbacks: int = 0) -> Accuracy:
    """The figures of all images together."""
    top1, top5 = (100 * int(right.sum()) / len(outcomes) for right in (outcomes.top1, outcomes.top5))
    return Accuracy(len(outcomes), top1, top5, float(outcomes.loss.mean()), fallbacks)


def evaluation_row(accuracy: Accuracy, step: int, epoch: float, checkpoint: Path | None) -> EvaluationRow:
    """A row of evaluations.jsonl; `checkpoint` is relative to the run, None where none was written at this step."""
    return EvaluationRow(step, epoch, **accuracy.figures(), checkpoint=None if checkpoint is None else str(checkpoint))
