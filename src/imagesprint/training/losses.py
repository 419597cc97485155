"""The loss that a recipe names."""

from collections.abc import Callable

from torch import nn

from imagesprint.recipes.recipe import Recipe

# By the names in `recipes.recipe.LOSS_NAMES`: recipe → a module of (logits float [M, C], targets) that gives the mean
# over the M images, a scalar. Targets are labels, int64 [M], or, where the recipe has batch transforms, float [M, C] of
# rows that add up to 1. Its buffers, such as weights of classes, are moved to the step's device and dtype.
LOSSES: dict[str, Callable[[Recipe], nn.Module]] = {
    "cross_entropy": lambda recipe: nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
}
