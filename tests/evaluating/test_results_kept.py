import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imagesprint.errors import CheckpointError
from imagesprint.evaluating.evaluation import Outcomes
from imagesprint.evaluating.evaluator import EvaluationImages
from imagesprint.evaluating.results import FOLDER, KeptData, Result, ResultsKept, checkpoint_hash, details
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
        "view": "plain", "step": 4, "epoch": 1.0, "num_images": 18, "top1": 50.0, "top5": 100.0, "loss": float("nan"),
        "details": details(outcomes, labels, ("china", "flower")), "data": data,
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


def test_what_is_no_archive_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("text")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint_hash(tmp_path / "x.pt")


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


def test_an_archive_whose_directory_is_damaged_has_no_hash_or_another(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(3)}, file)
    whole, before = file.read_bytes(), checkpoint_hash(file)
    errors = 0
    for place in range(whole.index(b"PK\1\2"), len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xE8]) + whole[place + 1 :])
        try:
            checkpoint_hash(file)
        except CheckpointError:
            errors += 1
    assert errors > 50
    file.write_bytes(whole)
    assert checkpoint_hash(file) == before
