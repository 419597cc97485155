"""Test-time views, the ways to judge a checkpoint: the plain one that its recipe says, and each option beside it.

Random crops show objects larger than the centre crop does, so the statistics of training are not those of evaluation
(Touvron et al. 2019, "Fixing the train-test resolution discrepancy", section 4).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.errors import UsageError
from imagesprint.evaluating.evaluation import evaluation_arithmetic
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.batch_norm import batch_norms, measure_statistics
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Dataset


@dataclass(frozen=True)
class View:
    """A way to judge: its name, and what is unlike the recipe's own evaluation, which has one crop of each image."""

    name: str = "plain"
    weights: str = ""  # "model" or "ema"; "": the moving average where the recipe keeps one, else the weights
    recalibrate: int = 0  # training images to take batch norm's statistics from; 0: those of the training
    flip: bool = False  # mean of the logits of the image and its mirror image
    size: int = 0  # pixels; 0: the recipe's
    rectangular: bool = False  # the image's own aspect ratio instead of a square

    def describe(self) -> dict[str, object]:
        """All of it, in plain types."""
        told = asdict(self)
        return told | {"shapes": "of each image"} if self.rectangular else told  # before, they were of each batch

    def shape(self, recipe: Recipe) -> str:
        """The `eval_shape` to judge by."""
        return "rectangle" if self.rectangular else recipe.eval_shape

    def sizes(self, recipe: Recipe) -> tuple[int, int]:
        """What the shorter side is resized to, and the side of the crop: the same part of the image at every size."""
        size = self.size or recipe.eval_image_size
        return round(size * recipe.eval_resize / recipe.eval_image_size), size

    def model(self, path: Path, plain: TrainedModel, training_set: Callable[[], Dataset]) -> TrainedModel:
        """The model to judge, on the device of `plain`, which is the one that the checkpoint at `path` stands for."""
        if not self.weights and not self.recalibrate:
            return plain
        model = load_model(path, self.weights).to(plain.mean.device)
        if self.recalibrate:
            recalibrate(model, training_set(), self.recalibrate)
        return model

    def logits(self, model: TrainedModel) -> Callable[[Tensor], Tensor]:
        """From uint8 images [N, H, W, 3] to logits [N, C]."""
        if not self.flip:
            return model
        return lambda images: (model(images) + model(images.flip(2))) / 2


PLAIN: Final = (View(),)


def chosen_views(
    weights: str = "", recalibrate: int = 0, flip: bool = False, sizes: tuple[int, ...] = (), rectangular: bool = False
) -> tuple[View, ...]:
    """The plain view, then one for each option of `evaluate` that is asked for."""
    views = [*PLAIN]
    if weights:
        views.append(View(f"weights: {weights}", weights=weights))
    if recalibrate:
        views.append(View(f"recalibrated on {recalibrate}", recalibrate=recalibrate))
    if flip:
        views.append(View("with its mirror image", flip=True))
    views += [View(f"{size} px", size=size) for size in sizes]
    if rectangular:
        views.append(View("rectangular", rectangular=True))
    return tuple(views)


def recalibrate(model: TrainedModel, training_set: Dataset, num_images: int) -> None:
    """Replace the running statistics of `model` by the mean over batches of about `num_images` of `training_set`.

    The batches lie evenly over the split, so the same ones are taken on every rank. Raises UsageError where the
    network has no batch norm.
    """
    norms = batch_norms(model)
    if not norms:
        raise UsageError(f"--recalibrate: {model.recipe.model} has no batch norm", "leave --recalibrate away")
    recipe = model.recipe
    batch_size = min(recipe.eval_batch_size, num_images, len(training_set))
    whole = len(training_set) // batch_size
    count = min(whole, max(1, num_images // batch_size))
    loader = EvaluationLoader(
        training_set, recipe.eval_image_size, recipe.eval_resize, batch_size, world_size=whole // count
    )
    for norm in norms:
        norm.train()
    with loader:
        batches = (batch for _, batch in zip(range(count), loader, strict=False))
        measure_statistics(norms, (_judged(model, batch) for batch in batches))
    model.eval()


def _judged(model: TrainedModel, batch: Batch) -> Tensor:
    """The logits of `batch`, computed as an evaluation does."""
    with evaluation_arithmetic(model.mean.device):
        logits: Tensor = model(batch.images.to(model.mean.device))
    return logits
