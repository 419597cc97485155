"""The losses that a recipe names, and the weights of classes of unequal size."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagesprint.recipes.recipe import Recipe

OfEach = Callable[[Tensor, Tensor], Tensor]  # logits and targets, both float [M, C] → losses [M]


class _ImageLoss(nn.Module):
    """The mean over images of a loss `of_each`.

    `label_smoothing` spreads that share of the targets evenly over all classes (Szegedy et al. 2015, arXiv:1512.00567),
    as in torch's cross-entropy. With `class_weights` [C] an image's loss counts by the mean of them under its targets
    before smoothing: by the weight of its class, of a mixed image by its share of each. The sum is divided by M all the
    same, so that the mean over micro-batches is the step's.
    """

    class_weights: Tensor | None

    def __init__(self, of_each: OfEach, label_smoothing: float, class_weights: Tensor | None) -> None:
        super().__init__()
        self._of_each = of_each
        self._smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        num_classes = logits.shape[1]
        if not targets.is_floating_point():
            # Not F.one_hot, which on a CPU reads the labels back to check them
            targets = (targets[:, None] == torch.arange(num_classes, device=logits.device)).to(logits.dtype)
        losses = self._of_each(logits, (1 - self._smoothing) * targets + self._smoothing / num_classes)
        if self.class_weights is not None:
            losses = losses * (targets @ self.class_weights)
        return losses.mean()


def class_weights(recipe: Recipe, class_counts: Tensor) -> Tensor | None:
    """A weight for each class, float64 [C], or None where the recipe has none.

    Of a class with n of the N training images in C classes "balanced" is N / (C·n), as in scikit-learn, and "sqrt" goes
    by 1 / √n. The mean over all training images is 1, so that a learning rate means the same; a class without images
    has 0.
    """
    if recipe.class_weights == "none":
        return None
    counts = class_counts.double()
    powers = counts.clamp(min=1) ** (-1.0 if recipe.class_weights == "balanced" else -0.5)
    weights = torch.where(counts > 0, powers, 0.0)
    return weights * counts.sum() / (weights * counts).sum()


def cross_entropy(recipe: Recipe, class_counts: Tensor) -> nn.Module:
    """−Σ t·log p, with p by softmax."""
    weights = class_weights(recipe, class_counts)
    if weights is None:
        return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    return _ImageLoss(partial(F.cross_entropy, reduction="none"), recipe.label_smoothing, weights)


def bce(recipe: Recipe, class_counts: Tensor) -> nn.Module:
    """Each class for itself (Wightman et al. 2021, "ResNet strikes back", arXiv:2110.00476); see `_binary`."""
    return _ImageLoss(_binary, recipe.label_smoothing, class_weights(recipe, class_counts))


def _binary(logits: Tensor, targets: Tensor) -> Tensor:
    """−Σ (t·log p + (1 − t)·log(1 − p)) with p = σ(z − ln(C − 1)).

    The sum over classes, not the mean: a logit's gradient is p − t, as in cross-entropy, so the same rates serve for
    any number of classes. Logits of 0 mean 1 / C, not one half (after Lin et al. 2017, section 3.3): a training begins
    near a loss of 1 + ln C, not at C·ln 2, and its first steps do not go into biases. What is added to all logits
    changes nothing where they are compared, or made probabilities by softmax.
    """
    shifted = logits - math.log(max(logits.shape[1] - 1, 1))
    return F.binary_cross_entropy_with_logits(shifted, targets, reduction="none").sum(1)


def focal(recipe: Recipe, class_counts: Tensor) -> nn.Module:
    """−Σ t·(1 − p)^γ·log p, with p by softmax: what is right already counts less (Lin et al. 2017, arXiv:1708.02002).

    Theirs is by sigmoid and of two classes; by softmax it is the loss of their equation (4) for one label.
    """
    of_each = partial(_focal, gamma=recipe.focal_gamma)
    return _ImageLoss(of_each, recipe.label_smoothing, class_weights(recipe, class_counts))


def _focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    logs = logits.log_softmax(1)
    # 1 − p without cancellation; at 0 a power below one has no slope
    others = (-torch.expm1(logs)).clamp(min=torch.finfo(logs.dtype).eps)
    return -(targets * others**gamma * logs).sum(1)


# By the names in `recipes.recipe.LOSS_NAMES`: (recipe, int64 [C] of how many training images each class has) → a module
# of (logits float [M, C], targets) that gives the mean over the M images, a scalar. Targets are labels, int64 [M], or,
# where the recipe has batch transforms, float [M, C] of rows that add up to 1. Its buffers are moved to the step's
# device and dtype.
LOSSES: dict[str, Callable[[Recipe, Tensor], nn.Module]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "focal": focal,
}
