"""The ways to judge a checkpoint: the plain one that its recipe says, and each option once beside it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from imagesprint.evaluating.recalibration import recalibrate
from imagesprint.model.weights import TrainedModel, load_model
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

    def describe(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return asdict(self)

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


@dataclass(frozen=True)
class Options:
    """What `evaluate` is asked for beside the plain figure."""

    weights: str = ""
    recalibrate: int = 0
    flip: bool = False
    sizes: tuple[int, ...] = ()
    rectangular: bool = False

    def views(self) -> tuple[View, ...]:
        """The plain view, then one for each option."""
        plain = View()
        views = [plain]
        if self.weights:
            views.append(replace(plain, name=f"weights: {self.weights}", weights=self.weights))
        if self.recalibrate:
            views.append(replace(plain, name=f"recalibrated on {self.recalibrate}", recalibrate=self.recalibrate))
        if self.flip:
            views.append(replace(plain, name="with its mirror image", flip=True))
        views += [replace(plain, name=f"{size} px", size=size) for size in self.sizes]
        if self.rectangular:
            views.append(replace(plain, name="rectangular", rectangular=True))
        return tuple(views)
