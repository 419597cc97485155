"""What a network computes for an image: the FLOP of its matrix products and convolutions, where a multiply-add is two.

They are counted with empty tensors: nothing is computed. Operations on single values, such as batch norm, do not count.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from imagesprint.model.building import build_model
from imagesprint.model.depths import HEAD_PREFIXES, frozen_names
from imagesprint.recipes.recipe import Phase, Recipe

_COUNTED: Final = 8  # images at once: their number is no matter


def training_flops(recipe: Recipe, phase: Phase, num_classes: int) -> float:
    """Those of an image in a step of `phase`: forward pass, and backward pass of all but what is frozen."""
    if recipe.features_once:
        return _head_flops(recipe, num_classes)
    return _training_flops(recipe, phase.freeze, phase.image_size, num_classes)


@cache
def _training_flops(recipe: Recipe, freeze: str, image_size: int, num_classes: int) -> float:
    network = empty_network(recipe, num_classes, freeze).train()
    with flop_counter() as counter:
        logits = network(torch.empty(_COUNTED, 3, image_size, image_size, device="meta"))
        labels = torch.empty(_COUNTED, dtype=torch.int64, device="meta")
        torch.autograd.backward(F.cross_entropy(logits, labels))
    return float(counter.get_total_flops()) / _COUNTED


@cache
def forward_flops(recipe: Recipe, image_size: int, num_classes: int) -> float:
    """Those of an image's forward pass alone."""
    network = empty_network(recipe, num_classes).eval()
    with torch.no_grad(), flop_counter() as counter:
        network(torch.empty(1, 3, image_size, image_size, device="meta"))
    return float(counter.get_total_flops())


def _head_flops(recipe: Recipe, num_classes: int) -> float:
    """Those of the head for an image's features: its logits, and the gradient of its weights."""
    named = empty_network(recipe, num_classes).named_parameters()
    return 4.0 * sum(value.numel() for name, value in named if name.startswith(HEAD_PREFIXES) and value.ndim > 1)


def empty_network(
    recipe: Recipe, num_classes: int, freeze: str = "none", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The recipe's network without values, in which what a phase with this `freeze` does not train gets no gradient.

    Raises RecipeError as `build_model` and `frozen_names` do.
    """
    network = build_model(recipe, num_classes).to("meta", dtype)
    for name in frozen_names(network, freeze):
        network.get_parameter(name).requires_grad_(False)
    return network


_BACKWARD: Final = torch.ops.aten.convolution_backward


def flop_counter() -> FlopCounterMode:
    """While it is active, it counts; `get_total_flops` tells."""
    return FlopCounterMode(display=False, custom_mapping={_BACKWARD: _convolution_backward})


def _convolution_backward(
    grad_out: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """FLOP of a convolution's gradients, of the shapes given: for each as many as the convolution itself takes.

    torch's own count of the weights' gradient is too large where a convolution has groups: by their number.
    """
    of_input, of_weight, _ = rest[-1]
    return int(conv_flop_count(list(x), list(weight), list(grad_out)) * (of_input + of_weight))
