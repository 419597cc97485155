"""What of a network a phase's `freeze` leaves as it is, and the head, which it always trains."""

from torch import nn

from imagesprint.errors import RecipeError
from imagesprint.model.depths import HEAD_PREFIXES, depths


def frozen_names(network: nn.Module, freeze: str) -> frozenset[str]:
    """The names of the parameters that a phase with this `freeze` does not train.

    "backbone" is all but the head, "stages N" the stem and the first N stages. Raises RecipeError where the network has
    no head, or not so many stages, by names that are known.
    """
    if freeze == "none":
        return frozenset()
    depth = depths(name for name, _ in network.named_parameters())
    stages = max(depth.values()) - 1
    last = stages if freeze == "backbone" else int(freeze.removeprefix("stages "))
    if last > stages:
        raise RecipeError(
            f"freeze: {freeze}, but the model has {stages}",
            "set freeze=backbone, which leaves all but the head as it is, or freeze=none",
        )
    return frozenset(name for name, at in depth.items() if at <= last)


def head_of(network: nn.Module) -> nn.Module:
    """The module that holds the head; what it takes are the features. There has to be one, as for `frozen_names`."""
    return next(child for name, child in network.named_children() if f"{name}." in HEAD_PREFIXES)
