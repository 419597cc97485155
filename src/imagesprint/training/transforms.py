"""The batch transforms that a recipe's `augment` names: mixing and changing images on the device, before the network.

They run in the compiled part of the step, on one micro-batch. All that is random comes from the batch's draws, which
depend on (seed, epoch, sample id): pairs are formed within the micro-batch, so no result depends on the ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from imagesprint.recipes.recipe import TRANSFORM_DRAWS, Recipe
from imagesprint.training.optimizer import weight_dtype

# By the names in `recipes.recipe.TRANSFORM_DRAWS`: (images, targets, draws, *numbers) → images, targets. Nothing is
# changed in place, nothing read back to the host.
# images: float [M, S, S, 3] in 0..255, RGB, in the dtype of the weights; before normalisation, since operations on
#   pixels are defined on this scale, and for mixing, which is affine, it is all one.
# targets: float [M, C], rows that add up to 1; of a label it is a one at its place.
# draws: float32 [M, count] in [0, 1), this transform's own. numbers: those that follow its name in `augment`.
TRANSFORMS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {}


def transforms_of(recipe: Recipe, num_classes: int) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What the recipe's transforms make, one behind the other, of (images, labels int64 [M], draws float32 [M, K]).

    K is the sum of the counts of `Recipe.draws`. Without transforms images and labels stay as they are.
    """
    rows = [(TRANSFORMS[name], TRANSFORM_DRAWS[name].count, numbers) for name, numbers in recipe.transforms]
    dtype = weight_dtype(recipe)

    def transform(images: Tensor, labels: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        if not rows:
            return images, labels
        images = images.to(dtype)
        # Not F.one_hot, which on a CPU reads the labels back to check them
        targets = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(dtype)
        start = 0
        for apply, count, numbers in rows:
            images, targets = apply(images, targets, draws[:, start : start + count], *numbers)
            start += count
        return images, targets

    return transform
