"""SGD as the recipe has it."""

import torch
from torch import Tensor, nn

from imagesprint.recipes.recipe import Recipe


def build_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.SGD:
    """SGD with momentum over two groups: with the recipe's weight decay, and without.

    The second holds the scales and shifts of norms and all biases (every tensor of one dimension) where
    `decay_norm_and_bias` is off. The learning rate is set before each step.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    spared = [] if recipe.decay_norm_and_bias else [parameter for parameter in parameters if parameter.ndim <= 1]
    spared_ids = {id(parameter) for parameter in spared}
    decayed = [parameter for parameter in parameters if id(parameter) not in spared_ids]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=0.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=parameters[0].device.type == "cuda",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def l2_loss(optimizer: torch.optim.Optimizer) -> Tensor:
    """What weight decay adds to the loss, ½·Σ decay·‖w‖², as a scalar on the device."""
    parts = [
        0.5
        * group["weight_decay"]
        * torch.stack([norm.square() for norm in torch._foreach_norm(group["params"])]).sum()
        for group in optimizer.param_groups
    ]
    return torch.stack(parts).sum()
