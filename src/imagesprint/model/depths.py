"""How deep in a network each of its tensors lies, by its name: in the stem, in one of the stages, or in the head.

What of it a phase's `freeze` leaves as it is follows from that.
"""

import re
from collections.abc import Iterable

from torch import nn

from imagesprint.errors import RecipeError

# A head holds the names of the classes in its shape: torchvision calls it fc, timm head or classifier.
HEAD_PREFIXES = ("fc.", "head.", "classifier.")
# layer1. is a stage of torchvision's ResNets and of ours; timm's other models have stages.0., stage2. (HRNet's, behind
# a layer1.), blocks.0., layers.0., s1.
_STAGE = re.compile(r"(?:layer|stages\.|stage|blocks\.|layers\.|s)\d+\.")


def depths(names: Iterable[str]) -> dict[str, int]:
    """The depth of each tensor of a network, by the `names` of all, in the network's order.

    The stem has 0, the first stage 1 and so on, the head one more than the last stage. What stands before the stages is
    the stem; what stands behind them and is no head, such as the last convolution of an EfficientNet, belongs to the
    last stage. Raises RecipeError where no tensor is a head's.
    """
    found, stages, depth = dict[str, int](), dict[str, int](), 0
    for name in names:
        if stage := _STAGE.match(name):
            depth = stages.setdefault(stage[0], len(stages) + 1)
        found[name] = depth
    heads = [name for name in found if name.startswith(HEAD_PREFIXES)]
    if not heads:
        raise RecipeError(
            f"model: its head is not known: no tensor's name begins with {', '.join(HEAD_PREFIXES)}",
            "choose another model, or leave out what treats head and backbone apart (freeze, backbone_lr, layer_decay, "
            "optimizer muon)",
        )
    return found | dict.fromkeys(heads, len(stages) + 1)


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
