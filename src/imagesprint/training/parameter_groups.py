"""The parameters in groups of equal settings: which have weight decay, how fast each learns, which Muon takes."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from imagesprint.model.depths import HEAD_PREFIXES, depths
from imagesprint.recipes.recipe import Recipe


def parameter_groups(
    recipe: Recipe, network: nn.Module, more: Callable[[str, nn.Parameter], dict[str, Any]] = lambda *_: {}
) -> list[dict[str, Any]]:
    """The network's trained parameters in groups of equal settings, those with weight decay first.

    Each group has a `weight_decay`, the recipe's, or 0 where `decay_norm_and_bias` is off: of the scales and shifts of
    norms and all biases (every tensor of one dimension); an `lr_factor`, see `lr_factors`; and the settings that `more`
    has for (name, parameter). Raises RecipeError where factors are asked for and the network's head is not known.
    """
    factors = lr_factors(recipe, network)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim <= 1 and not recipe.decay_norm_and_bias
            decay = 0.0 if spared else recipe.weight_decay
            settings = {"weight_decay": decay, "lr_factor": factors[name], **more(name, parameter)}
            group = groups.setdefault((spared, *settings.values()), {"params": [], **settings})
            group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def lr_factors(recipe: Recipe, network: nn.Module) -> dict[str, float]:
    """What the recipe's rate is multiplied with for each parameter, by its name.

    The head has 1, all else `backbone_lr` times `layer_decay` for each step that it lies below the head: once in the
    last stage, twice in the stage before (Howard and Ruder 2018, arXiv:1801.06146, section 3.2).
    """
    names = [name for name, _ in network.named_parameters()]
    if recipe.backbone_lr == 1 and recipe.layer_decay == 1:
        return dict.fromkeys(names, 1.0)
    found = depths(names)
    head = max(found.values())
    # Products alone: a power is not the same number on every machine, and a checkpoint's must be the run's own.
    below = [1.0, *(recipe.backbone_lr * math.prod([recipe.layer_decay] * steps) for steps in range(1, head + 1))]
    return {name: below[head - depth] for name, depth in found.items()}


def hidden_weights(network: nn.Module) -> set[str]:
    """The names of the weights that Muon takes: those of convolutions and linear layers that map features to features.

    Not the first, which takes pixels, not the head, and no convolution in channel groups: its weights are no matrix.
    Raises RecipeError where the network's head is not known.
    """
    depths(name for name, _ in network.named_parameters())  # for the error
    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    return {
        f"{name}.weight"
        for name, layer in layers[1:]
        if not f"{name}.".startswith(HEAD_PREFIXES) and getattr(layer, "groups", 1) == 1
    }
