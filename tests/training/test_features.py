"""Features once: the head trains as it would with each image passed through the network each time."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.console import Console
from imagesprint.evaluating import evaluation
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import Ranks
from imagesprint.storage.url import parse_place
from imagesprint.training.features import make_features
from imagesprint.training.training import TrainingOptions, train

CPU = torch.device("cpu")
SILENT = Console(quiet=True)


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Sixteen steps of the head alone, in two phases, on a backbone that is not what the seed makes."""
    init = tmp_path_factory.mktemp("init") / "other.pt"
    torch.save(build_model(replace(tiny_recipe, seed=5), 3).state_dict(), init)
    return replace(
        tiny_recipe,
        init=str(init),
        crop="center",
        flip=False,
        features_once=True,
        eval_every=0,
        ema_decay=0.9,
        phases=(
            Phase((0, 2), (0.1, 0.1), "constant", 16, 4, 24, "full", freeze="backbone"),
            Phase((2, 4), (0.1, 0.0), "cosine", 16, 8, 24, "full", freeze="backbone"),
        ),
    )


@pytest.fixture(scope="module")
def run(photo_root: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run in this process, with these fields of the recipe changed; stopped on its way where that is asked for."""

    @cache
    def make(stop_after: int | None = None, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("features") / "run"
        options = TrainingOptions(device="cpu", stop_after=stop_after)
        for again in (options, replace(options, stop_after=None)) if stop_after else (options,):
            train(replace(recipe, **changes), parse_place(str(photo_root)), parse_place(str(folder)), again, SILENT)
        return folder

    return make


def last(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(sorted((run / "checkpoints").glob("*.pt"))[-1], weights_only=True)
    assert content["step"] == 16
    return content


def test_the_head_trains_as_with_images_each_time(run: Callable[..., Path]) -> None:
    once, each = run(), run(features_once=False)
    ours, theirs = last(once), last(each)
    moved = 0.0
    for key, value in ours["model"].items():
        if key.startswith("fc."):  # features are in float32, the backbone that passes each image in float64
            torch.testing.assert_close(value, theirs["model"][key], rtol=1e-4, atol=1e-6)
            moved = max(moved, value.abs().max().item())
        else:
            assert torch.equal(value, theirs["model"][key]), key
    assert moved > 0.01
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (once, each)]
    for row, other in zip(*rows, strict=True):
        assert (row["step"], row["lr"]) == (other["step"], other["lr"])
        assert row["cross_entropy"] == pytest.approx(other["cross_entropy"], rel=1e-4)


def test_what_is_left_is_a_whole_model(run: Callable[..., Path], recipe: Recipe) -> None:
    folder = run()
    model = load_model(str(folder))
    assert model(torch.zeros((2, 24, 24, 3), dtype=torch.uint8)).shape == (2, 2)
    row = json.loads((folder / "evaluations.jsonl").read_text())  # one alone
    assert (row["step"], row["num_images"]) == (16, 18)
    assert model.recipe == recipe


def test_resumed_it_is_the_same_to_the_bit(run: Callable[..., Path]) -> None:
    whole, resumed = last(run()), last(run(stop_after=7))
    for part in ("model", "ema", "optimizer"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)


def test_they_are_made_in_an_evaluations_arithmetic(
    photo_root: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "evaluation_precision", lambda _: "tf32")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    root, allowed = open_root(parse_place(str(photo_root))), []
    model = TrainedModel(build_model(recipe, 2), recipe, root.classes, 70)
    model.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    make_features(model, root.dataset("full", "train"), Ranks(0, 1, 0, 1, CPU), SILENT)
    assert allowed == [True] * 10  # of a blank image, and of nine batches


class OneOfTwo(Ranks):
    """A rank that keeps to itself what it would sum with the other's."""

    def sum(self, tensor: torch.Tensor) -> None:
        pass


def test_ranks_share_the_images_and_no_bit_depends_on_it(photo_root: Path, recipe: Recipe) -> None:
    root = open_root(parse_place(str(photo_root)))
    dataset = root.dataset("full", "train")
    model = TrainedModel(build_model(recipe, 2), recipe, root.classes, len(dataset))
    makers = (Ranks(0, 1, 0, 1, CPU), OneOfTwo(0, 2, 0, 2, CPU), OneOfTwo(1, 2, 1, 2, CPU))
    whole, *shares = (make_features(model, dataset, ranks, SILENT)[0] for ranks in makers)
    assert whole.shape == (len(dataset), 64)
    assert (whole != 0).any(1).all()
    assert [int((share != 0).any(1).sum()) for share in shares] == [38, 32]  # 9 batches of 8, the last not full
    assert torch.equal(shares[0] + shares[1], whole)
