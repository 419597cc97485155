"""What a training computes: the FLOP of its matrix products and convolutions, where a multiply-add is two.

Counted are, with empty tensors, forward and backward pass of each phase, without the backward pass of what it freezes;
one step of the optimizer (of SGD that is nothing: it has no matrix products); with `features_once` one forward pass of
each image and then the head alone; and the forward passes of `recalibrate_bn`. Not counted are operations on single
values, such as batch norm, augmentation and an optimizer's sums, and evaluations.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from imagesprint.model.building import build_model
from imagesprint.model.flops import forward_flops, training_flops
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.training.optimizer import build_optimizer, set_learning_rate


def recipe_flops(recipe: Recipe, num_train: int, num_classes: int) -> float:
    """Return the FLOP of a whole training of `recipe` on `num_train` images."""
    schedule, last = Schedule(recipe, num_train), recipe.phases[-1]
    total = schedule.total_steps * _optimizer_flops(recipe, num_classes)
    for phase, (start, end) in zip(recipe.phases, schedule.bounds, strict=True):
        total += (end - start) * phase.batch_size * training_flops(recipe, phase, num_classes)
    if recipe.features_once:
        total += num_train * forward_flops(recipe, last.image_size, num_classes)
    if recipe.recalibrate_bn:
        total += recipe.recalibrate_bn * last.batch_size * forward_flops(recipe, last.image_size, num_classes)
    return total


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
