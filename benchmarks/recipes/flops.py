"""What a training computes: the FLOP of its matrix products and convolutions, where a multiply-add is two.

Counted are, with empty tensors, forward and backward pass of each phase, without the backward pass of what it freezes;
one step of the optimizer (of SGD that is nothing: it has no matrix products); with `features_once` one forward pass of
each image and then the head alone; and the forward passes of `recalibrate_bn`. Not counted are operations on single
values, such as batch norm, augmentation and an optimizer's sums, and evaluations.
"""

from dataclasses import replace
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from imagesprint.diagnosis.roofline import count_work
from imagesprint.model.building import build_model
from imagesprint.model.depths import HEAD_PREFIXES
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.training.optimizer import build_optimizer, set_learning_rate

COUNTED = 8  # images at once: their number is no matter


def training_flops(recipe: Recipe, num_train: int, num_classes: int) -> float:
    """Return the FLOP of a whole training of `recipe` on `num_train` images."""
    schedule, last = Schedule(recipe, num_train), recipe.phases[-1]
    total = schedule.total_steps * _optimizer_flops(recipe, num_classes)
    for phase, (start, end) in zip(recipe.phases, schedule.bounds, strict=True):
        total += (end - start) * phase.batch_size * _image_flops(recipe, phase, num_classes)
    if recipe.features_once:
        total += num_train * _forward_flops(recipe, last.image_size, num_classes)
    if recipe.recalibrate_bn:
        total += recipe.recalibrate_bn * last.batch_size * _forward_flops(recipe, last.image_size, num_classes)
    return total


def _image_flops(recipe: Recipe, phase: Phase, num_classes: int) -> float:
    """Those of what is done with an image in a step."""
    if recipe.features_once:
        return _head_flops(recipe, num_classes)
    alike = replace(phase, epochs=None, steps=(0, 1), lr=(0.0, 0.0), batch_size=COUNTED, micro_batch=COUNTED)
    return _counted(replace(recipe, phases=()), alike, num_classes)


@cache
def _counted(recipe: Recipe, phase: Phase, num_classes: int) -> float:
    return count_work(recipe, phase, num_classes).flops


def _forward_flops(recipe: Recipe, image_size: int, num_classes: int) -> float:
    """Those of an image's forward pass."""
    network = build_model(recipe, num_classes).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, image_size, image_size, device="meta"))
    return float(counter.get_total_flops())


def _head_flops(recipe: Recipe, num_classes: int) -> float:
    """Those of the head for an image's features: its logits, and the gradient of its weights."""
    named = build_model(recipe, num_classes).named_parameters()
    return 4.0 * sum(value.numel() for name, value in named if name.startswith(HEAD_PREFIXES) and value.ndim > 1)


def _optimizer_flops(recipe: Recipe, num_classes: int) -> float:
    """Those of a step of the optimizer."""
    network = build_model(recipe, num_classes)
    optimizer = build_optimizer(recipe, network)
    set_learning_rate(optimizer, 0.1)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    return float(counter.get_total_flops())
