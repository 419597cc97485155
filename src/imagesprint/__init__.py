"""Trains ResNets on ImageNet-scale data; every part is usable alone. Names are imported when first used.

From prepared data to batches, and from a trained model to answers:

    import imagesprint

    recipe = imagesprint.load_recipe("demo")  # a built-in one, or your own: load_recipe("my.toml")
    root = imagesprint.open_root("data")  # what `imagesprint prepare photos data` wrote
    for batch in imagesprint.Loader(root, recipe):
        batch.images  # torch.uint8 [M, S, S, 3], valid until the next batch is asked for
        batch.labels  # torch.int64 [M]: root.classes[label] is the name

    model = imagesprint.load_model("run")  # the last checkpoint of what `imagesprint train` wrote, on the CPU
    probabilities = model(batch.images).softmax(1)  # float32 [M, number of classes]; it normalises by itself
    print(model.classes[probabilities[0].argmax()])

Whatever goes wrong raises an ImagesprintError, whose `hint` says what helps.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagesprint.checkpoints.weights import load_model as load_model
    from imagesprint.errors import ImagesprintError as ImagesprintError
    from imagesprint.images.crops import CropSpec as CropSpec
    from imagesprint.loading.batch import Batch as Batch
    from imagesprint.loading.loader import Loader as Loader
    from imagesprint.loading.sampling import BatchSpec as BatchSpec
    from imagesprint.recipes.library import load_recipe as load_recipe
    from imagesprint.recipes.recipe import Phase as Phase
    from imagesprint.recipes.recipe import Recipe as Recipe
    from imagesprint.records.dataset import open_dataset as open_dataset
    from imagesprint.records.dataset import open_root as open_root

_MODULES = {
    "Batch": "imagesprint.loading.batch",
    "BatchSpec": "imagesprint.loading.sampling",
    "CropSpec": "imagesprint.images.crops",
    "ImagesprintError": "imagesprint.errors",
    "Loader": "imagesprint.loading.loader",
    "Phase": "imagesprint.recipes.recipe",
    "Recipe": "imagesprint.recipes.recipe",
    "load_model": "imagesprint.checkpoints.weights",
    "load_recipe": "imagesprint.recipes.library",
    "open_dataset": "imagesprint.records.dataset",
    "open_root": "imagesprint.records.dataset",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'imagesprint' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
