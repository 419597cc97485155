"""The network that a recipe names, ready for training by steps, and the form in which all of them take images."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from imagesprint.errors import RecipeError
from imagesprint.model.batch_norm import BatchNorm2d, convert_batch_norms
from imagesprint.model.efficientnet import EfficientNetLite0
from imagesprint.model.resnet import ARCHITECTURES, resnet
from imagesprint.recipes.recipe import Recipe

# By the names in `recipes.recipe.MODEL_NAMES`: (recipe, number of classes) → a network with fresh weights on the CPU,
# which takes float images [N, 3, H, W] as `normalize` gives them to float logits [N, classes].
MODELS: dict[str, Callable[[Recipe, int], nn.Module]] = {
    **dict.fromkeys(ARCHITECTURES, resnet),
    "efficientnet_lite0": EfficientNetLite0,
}


def build_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network for `num_classes`, on the CPU in fp32 and channels_last.

    The weights follow from `recipe.seed` alone: the same on every rank and machine. `recipe.init` is not applied here
    (see checkpoints/weights.py). Raises RecipeError for a model that timm does not have, and for one whose batch norms
    are of another kind than torch's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.model.startswith("timm:"):
            model = _timm_model(recipe.model.removeprefix("timm:"), num_classes)
        else:
            model = MODELS[recipe.model](recipe, num_classes)
    convert_batch_norms(model)
    _check_norms(model, recipe.model)
    return to_channels_last(model)


def _timm_model(name: str, num_classes: int) -> nn.Module:
    timm = import_library("timm", f"model: timm:{name}")
    if not timm.is_model(name):
        raise RecipeError(f"model: timm has no model {name!r}", "list its models with timm.list_models()")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return model


def import_library(library: str, what: str) -> Any:
    """The module `library`, timm or torchvision, which `what` needs. Raises RecipeError where it cannot be imported."""
    try:
        return importlib.import_module(library)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise RecipeError(
            f"{what} needs {library}, which cannot be imported ({error})",
            f"install {library} beside a torchvision that fits this torch, or use a built-in model and init=FILE",
        ) from error


def _check_norms(model: nn.Module, name: str) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    others = sorted({type(norm).__name__ for norm in norms if not isinstance(norm, BatchNorm2d)})
    if others:
        raise RecipeError(
            f"model: {name} has batch norms of its own kind ({', '.join(others)}): their running statistics "
            "would depend on the number of ranks",
            "choose a model with torch.nn.BatchNorm2d, or one without batch norm",
        )


def to_channels_last(model: nn.Module) -> nn.Module:
    """Lay out the weights as NHWC, in place; returns `model`."""
    converted: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return converted


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images [N, H, W, 3] in 0..255, uint8 or float → (images − mean) / std, [N, 3, H, W] in channels_last, in the
    dtype of `mean`.

    Runs on the images' device; the layout needs no copy, NHWC is what channels_last means.
    """
    return ((images.to(mean.dtype) - mean) / std).permute(0, 3, 1, 2)
