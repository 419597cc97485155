"""What a training computes: the FLOP of its matrix products and convolutions, where a multiply-add is two.

Counted are forward and backward pass of each phase, on the step's own operations with empty tensors, and the optimizer,
on one step of its own (of SGD that is nothing: it has no matrix products). Not counted are operations on single values,
such as batch norm, augmentation and the optimizer's sums, and evaluations.
"""

from dataclasses import replace
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from imagesprint.diagnosis.roofline import count_work
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.training.optimizer import build_optimizer, set_learning_rate

COUNTED = 8  # images at once: their number is no matter


def training_flops(recipe: Recipe, num_train: int, num_classes: int) -> float:
    """Return the FLOP of a whole training of `recipe` on `num_train` images."""
    schedule, a_step = Schedule(recipe, num_train), optimizer_flops(recipe, num_classes)
    total = 0.0
    for phase, (start, end) in zip(recipe.phases, schedule.bounds, strict=True):
        alike = replace(phase, epochs=None, steps=(0, 1), lr=(0.0, 0.0), batch_size=COUNTED, micro_batch=COUNTED)
        total += (end - start) * (
            phase.batch_size * _image_flops(replace(recipe, phases=()), alike, num_classes) + a_step
        )
    return total


@cache
def _image_flops(recipe: Recipe, phase: Phase, num_classes: int) -> float:
    """Those of an image's forward and backward pass."""
    return count_work(recipe, phase, num_classes).flops


def optimizer_flops(recipe: Recipe, num_classes: int) -> float:
    """Return those of one step of the recipe's optimizer."""
    network = build_model(recipe, num_classes)
    optimizer = build_optimizer(recipe, network)
    set_learning_rate(optimizer, 0.1)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    return float(counter.get_total_flops())
