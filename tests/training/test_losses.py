"""Losses and class weights against formulas in float64, with labels and with soft targets."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from imagesprint.console import Console
from imagesprint.loading.loader import Loader
from imagesprint.prepare.preparing import prepare
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.ranks import Ranks
from imagesprint.training.losses import LOSSES, class_weights
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep
from imagesprint.training.training import TrainingOptions, train

RECIPE = Recipe(name="test", phases=(Phase((0, 1), (0.1, 0.1), "constant", 8, 8, 16),))
COUNTS = torch.tensor([10, 30, 0, 60])
BALANCED = [100 / (3 * 10), 100 / (3 * 30), 0.0, 100 / (3 * 60)]


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 3, 3, 1, 0])
MIXED = torch.tensor([[0.7, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0.5, 0, 0, 0.5], [0, 1, 0, 0], [1, 0, 0, 0]])


def of_each(loss: str, row: list[float], targets: list[float]) -> float:
    """The loss of one image, class by class."""
    total = sum(math.exp(value) for value in row)
    found = 0.0
    for value, target in zip(row, targets, strict=True):
        p = math.exp(value) / total
        if loss == "cross_entropy":
            found -= target * math.log(p)
        elif loss == "focal":
            found -= target * (1 - p) ** 1.5 * math.log(p)
        else:
            p = 1 / (1 + math.exp(math.log(3) - value))
            found -= target * math.log(p) + (1 - target) * math.log(1 - p)
    return found


@pytest.mark.parametrize("weighted", ["none", "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "focal"])
def test_a_loss_is_its_formula(loss: str, smoothing: float, weighted: str, logits: Tensor) -> None:
    recipe = replace(RECIPE, loss=loss, label_smoothing=smoothing, class_weights=weighted, focal_gamma=1.5)
    module = LOSSES[loss](recipe, COUNTS).to(torch.float64)
    for given, targets in ((LABELS, F.one_hot(LABELS, 4)), (MIXED.double(), MIXED)):
        expected = 0.0
        for row, target in zip(logits.tolist(), targets.double().tolist(), strict=True):
            weight = sum(map(math.prod, zip(target, BALANCED, strict=True))) if weighted == "balanced" else 1.0
            expected += weight * of_each(loss, row, [(1 - smoothing) * each + smoothing / 4 for each in target]) / 6
        assert module(logits, given).item() == pytest.approx(expected, rel=1e-12)


def test_weights_go_by_the_counts_and_have_a_mean_of_one() -> None:
    assert class_weights(RECIPE, COUNTS) is None
    balanced = class_weights(replace(RECIPE, class_weights="balanced"), COUNTS)
    root = class_weights(replace(RECIPE, class_weights="sqrt"), COUNTS)
    assert balanced is not None
    assert root is not None
    assert balanced.tolist() == pytest.approx(BALANCED)
    assert (root[0] / root[3]).item() == pytest.approx(math.sqrt(6))
    for weights in (balanced, root):
        assert weights[2] == 0
        assert (weights * COUNTS).sum().item() / 100 == pytest.approx(1)


def test_they_are_compiled_whole_and_finite_where_all_is_certain() -> None:
    logits, labels = torch.tensor([[200.0, 0, 0, 0], [-200.0, 0, 0, 0]], requires_grad=True), torch.tensor([0, 0])
    for loss in ("bce", "focal"):
        module = LOSSES[loss](replace(RECIPE, loss=loss, class_weights="sqrt", focal_gamma=0.5), COUNTS).float()
        value = torch.compile(module, fullgraph=True, backend="eager")(logits, labels)
        torch.testing.assert_close(value, module(logits, labels))
        (slopes,) = torch.autograd.grad(value, logits)
        assert slopes.isfinite().all()


def test_bce_of_a_thousand_classes_begins_where_cross_entropy_does() -> None:
    module = LOSSES["bce"](replace(RECIPE, loss="bce"), torch.ones(1000, dtype=torch.int64))
    assert module(torch.zeros(1, 1000), torch.tensor([3])).item() == pytest.approx(1 + math.log(1000), abs=0.01)


def test_a_training_weighs_by_the_counts_of_its_data(tmp_path: Path, photos: Path, tiny_recipe: Recipe) -> None:
    source = tmp_path / "unequal"
    for split, name, count in (
        ("train", "china", 20),
        ("train", "flower", 5),
        ("val", "china", 3),
        ("val", "flower", 3),
    ):
        (source / split / name).mkdir(parents=True)
        for number in range(count):
            file = f"{split}/{name}/{number:02d}.jpg"
            (source / file).write_bytes((photos / file).read_bytes())
    prepare(source, tmp_path / "root", variants=("32",), workers=1, console=Console.silent())
    root = open_root(tmp_path / "root")
    assert root.dataset("32", "train").class_counts.tolist() == [20, 5]
    recipe = replace(tiny_recipe, class_weights="balanced")
    train(recipe, root.path, tmp_path / "run", TrainingOptions(device="cpu", stop_after=1), Console.silent())
    (row,) = RunDirectory(tmp_path / "run").metrics()
    found = []
    for counts in ([20, 5], [1, 1]):
        state = TrainingState(recipe, root.classes, torch.device("cpu"), class_counts=torch.tensor(counts))
        with Loader(root, recipe, threads=1, end_step=1) as loader:
            step = TrainingStep(state, Ranks(0, 1, 0, 1, torch.device("cpu")))
            loss, *_, images = step(iter(loader), recipe.phases[0], 0.02).tolist()
        found.append(loss / images)
    assert row.cross_entropy == pytest.approx(found[0], rel=1e-9)
    assert found[1] != pytest.approx(found[0], rel=1e-3)
