"""The batch transforms that a recipe's `augment` names: mixing and changing images on the device, before the network.

They run in the compiled part of the step, on one micro-batch. All that is random comes from the batch's draws, which
depend on (seed, epoch, sample id): pairs are formed within the micro-batch, so no result depends on the ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import CHOICE, TRANSFORM_DRAWS, Recipe
from imagesprint.records.dataset import Root
from imagesprint.training import pixel_operations as pixels
from imagesprint.training.mixing import CutMix, Erasing, Mixup, OneOf
from imagesprint.training.optimizer import weight_dtype
from imagesprint.training.trivial_augment import TrivialAugment


class Jitter(nn.Module):
    """Brightness, contrast and saturation, each by a factor in 1 ± strength, in this order.

    The three are one: what the first would cut off at white is cut off at the end alone.
    """

    def __init__(self, _: Recipe, strength: float) -> None:
        super().__init__()
        self._strength = strength

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `TRANSFORMS` has it, with three draws, one for each factor."""
        factors = 1 + self._strength * (2 * draws.to(images.dtype) - 1)
        bright, contrast, saturation = (factor[:, None, None] for factor in factors[..., None].unbind(1))
        grey = pixels.luminance(images)
        mean = grey.mean((1, 2, 3), keepdim=True)
        all_three = bright * contrast * saturation
        rest = bright * contrast * (1 - saturation) * grey + bright * (1 - contrast) * mean
        return (images * all_three + rest).clamp(0, pixels.WHITE), targets


class Grey(nn.Module):
    """With a probability, the image's luminance in all three channels."""

    def __init__(self, _: Recipe, probability: float) -> None:
        super().__init__()
        self._probability = probability

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `TRANSFORMS` has it, with one draw: whether."""
        chosen = (draws < self._probability)[:, :, None, None]
        return torch.where(chosen, pixels.luminance(images), images), targets


class Pad(nn.Module):
    """A crop of the image's size out of the image with `margin` pixels more on each side, as CIFAR's is cut.

    The margin mirrors the image (Zagoruyko and Komodakis 2016, "Wide residual networks", section 3): there is no edge
    that tells where the image was.
    """

    def __init__(self, _: Recipe, margin: float) -> None:
        super().__init__()
        self._margin = int(margin)

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `TRANSFORMS` has it, with two draws: how far down and across."""
        shifts = (draws * (2 * self._margin + 1)).long() - self._margin
        return pixels.shifted(images, shifts[:, 0], shifts[:, 1]), targets


# By the names in `recipes.recipe.TRANSFORM_DRAWS`: (recipe, *numbers) → a module of (images, targets, draws) that gives
# images and targets, where the numbers are those that follow its name in `augment`. Its buffers are moved to the step's
# device and the dtype of the weights. Nothing is changed in place, nothing read back to the host.
# images: float [M, 3, S, S] in 0..255, RGB, contiguous; before normalisation, since operations on pixels are defined on
#   this scale, and for mixing, which is affine, it is all one. Channels come first: what is the same for all of them,
#   such as a box, is then no dearer than it need be.
# targets: float [M, C], rows that add up to 1; of a label it is a one at its place.
# draws: float32 [M, count] in [0, 1), this transform's own.
TRANSFORMS: dict[str, Callable[..., nn.Module]] = {
    "mixup": Mixup,
    "cutmix": CutMix,
    "erasing": Erasing,
    "jitter": Jitter,
    "grey": Grey,
    "trivial": TrivialAugment,
    "pad": Pad,
}


def transforms_of(
    recipe: Recipe, num_classes: int, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What the recipe's transforms make, one behind the other, of what lies on `device`.

    That is (images uint8 [M, S, S, 3], labels int64 [M], draws float32 [M, K]), where K is the sum of the counts of
    `Recipe.draws`. Images are then [M, S, S, 3] in 0..255 and targets [M, C], in the dtype of the weights. Without
    transforms images and labels stay as they are.
    """
    dtype = weight_dtype(recipe)
    turns = [_turn(recipe, turn) for turn in recipe.turns]
    counts = [count for _, count in turns]
    modules = [module.to(device, dtype) for module, _ in turns]

    def transform(images: Tensor, labels: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        if not modules:
            return images, labels
        images = images.permute(0, 3, 1, 2).to(dtype, memory_format=torch.contiguous_format)
        # Not F.one_hot, which on a CPU reads the labels back to check them
        targets = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(dtype)
        for module, own in zip(modules, draws.split_with_sizes(counts, 1), strict=True):
            images, targets = module(images, targets, own)
        return images.permute(0, 2, 3, 1).contiguous(), targets

    return transform


def _turn(recipe: Recipe, rows: Sequence[tuple[str, tuple[float, ...]]]) -> tuple[nn.Module, int]:
    """The module that makes of each image what one of `rows` asks for, and how many draws it takes."""
    modules = [TRANSFORMS[name](recipe, *numbers) for name, numbers in rows]
    counts = [TRANSFORM_DRAWS[name].count for name, _ in rows]
    if len(modules) == 1:
        return modules[0], counts[0]
    return OneOf(modules, counts), CHOICE.count + sum(counts)


@dataclass(frozen=True, eq=False)
class Seen:
    """An image as the network sees it, but for the normalisation: `image` uint8 [S, S, 3], rounded.

    `targets` are those that the loss takes, before label smoothing: pairs of a class and its share, the greatest first,
    that add up to 1.
    """

    sample_id: int
    image: NDArray[np.uint8]
    targets: list[tuple[int, float]]


def seen_in_step(root: Root, recipe: Recipe, step: int) -> list[Seen]:
    """Return all that `step`, from 0, of a training on `root` sees, in its order.

    Raises DataError for damaged data, RecipeError where a micro-batch is not settled yet or too large for the data.
    """
    transform, seen = transforms_of(recipe, len(root.classes), torch.device("cpu")), list[Seen]()
    with Loader(root, recipe, start_step=step, end_step=step + 1) as loader:
        for batch in loader:
            images, targets = transform(batch.images, batch.labels, batch.draws)
            pixels_seen = images.round().to(torch.uint8).numpy().copy()  # a batch is valid until the next one
            shares = targets.tolist() if targets.ndim > 1 else np.eye(len(root.classes))[targets].tolist()
            rows = zip(batch.sample_ids.tolist(), pixels_seen, map(_largest_first, shares), strict=True)
            seen += [Seen(*row) for row in rows]
    return seen


def _largest_first(shares: list[float]) -> list[tuple[int, float]]:
    """The classes whose share is not 0, with it."""
    return sorted(((label, share) for label, share in enumerate(shares) if share), key=lambda pair: -pair[1])
