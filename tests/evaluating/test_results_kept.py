import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.evaluating.evaluation import Outcomes
from imagesprint.evaluating.evaluator import EvaluationImages
from imagesprint.evaluating.results import FOLDER, KeptData, Result, ResultsKept, details
from imagesprint.evaluating.views import View
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Root, open_dataset, open_root
from imagesprint.runs.ranks import Ranks

CPU = torch.device("cpu")


def made(kept: ResultsKept) -> Result:
    """A result on the validation images of variant 32, half of which were taken for china."""
    data, labels, right = kept.data("32"), np.repeat([0, 1], 9).astype(np.int32), np.repeat([True, False], 9)
    assert data is not None
    outcomes = Outcomes(right, np.ones(18, np.bool_), np.zeros(18), np.zeros(18, np.int64), np.full(18, 0.75))
    return {
        "view": "plain", "step": 4, "epoch": 1.0, "num_images": 18, "top1": 50.0, "top5": 100.0,
        "mean_class_accuracy": 50.0, "loss": float("nan"),
        "precision": "fp32", "details": details(outcomes, labels, ("china", "flower")), "data": data,
    }  # fmt: skip


@pytest.fixture
def root(photo_root: Path) -> Root:
    return open_root(photo_root)


def test_a_result_is_found_for_the_same_checkpoint_view_and_data_alone(
    root: Root, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint, kept = write_checkpoint(tmp_path, 4), ResultsKept(root, CPU)
    result = made(kept)
    kept.keep(checkpoint, View(), result)
    again = ResultsKept(root, CPU)
    found = again.find(checkpoint, View())
    assert found is not None
    assert json.dumps(found) == json.dumps(result)  # to the loss, which is no number
    assert again.find(checkpoint, View(flip=True)) is None
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["fc.bias"][0] += 1
    torch.save(content, checkpoint)
    assert again.find(checkpoint, View()) is None


def test_a_result_of_an_earlier_version_has_the_mean_of_its_classes(
    root: Root, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint, kept = write_checkpoint(tmp_path, 4), ResultsKept(root, CPU)
    result: dict[str, Any] = {**made(kept)}
    result["details"]["per_class"] = [
        {"class": "china", "num_images": 16, "top1": 75.0}, {"class": "flower", "num_images": 2, "top1": 50.0},
        {"class": "none", "num_images": 0, "top1": None},
    ]  # fmt: skip
    del result["mean_class_accuracy"]
    kept.keep(checkpoint, View(), result)  # type: ignore[arg-type]
    found = kept.find(checkpoint, View())
    assert found is not None
    assert found["mean_class_accuracy"] == 62.5


def test_other_data_and_damaged_files_are_no_result(
    root: Root, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint, kept = write_checkpoint(tmp_path, 4), ResultsKept(root, CPU)
    other: KeptData = {"variant": "32", "fingerprint": "of other images", "variants": []}
    kept.keep(checkpoint, View(), {**made(kept), "data": other})
    assert kept.find(checkpoint, View()) is None
    kept.keep(checkpoint, View(), made(kept))
    file = next((tmp_path / FOLDER).iterdir())
    whole = file.read_text()
    for damaged in ("{", whole.replace('"top1": 50.0', '"top1": 51.0'), whole.replace('"mistakes"', '"mistaken"')):
        file.write_text(damaged)
        assert kept.find(checkpoint, View()) is None
    file.write_text(whole)
    assert kept.find(checkpoint, View()) is not None


def test_a_checkpoint_outside_a_run_keeps_nothing(
    root: Root, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    alone = write_checkpoint(tmp_path / "run", 4).rename(tmp_path / "best.pt")
    kept = ResultsKept(root, CPU)
    kept.keep(alone, View(), made(kept))
    assert kept.find(alone, View()) is None
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["best.pt"]


@pytest.mark.parametrize("room", [1 << 30, 0])
def test_images_are_decoded_once_where_there_is_room(
    photo_root: Path, tiny_recipe: Recipe, alone: Ranks, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr("imagesprint.evaluating.evaluator.MOST_BYTES", room)
    dataset, images = open_dataset(photo_root, "32", "validation"), EvaluationImages(alone)
    first = [(batch.step, batch.images.clone()) for batch in images.batches(dataset, tiny_recipe, View(), (0, 1))]
    second = list(images.batches(dataset, tiny_recipe, View(), (0, 1)))
    third = list(images.batches(dataset, tiny_recipe, View(), (1, 2)))
    assert [number for number, _ in first] == [0, 1, 2]
    assert [batch.step for batch in third] == [1]
    assert (third[0] is second[1]) == bool(room)
    if room:
        assert all(torch.equal(pixels, batch.images) for (_, pixels), batch in zip(first, second, strict=True))
