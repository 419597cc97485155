"""A loader that is told what batches are, and nothing of a training; and the random numbers that come with them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagesprint.errors import RankError, RecipeError, UsageError
from imagesprint.images.crops import CropSpec
from imagesprint.images.draws import permutation, sample_floats
from imagesprint.loading.loader import EvaluationLoader, Loader
from imagesprint.loading.sampling import BatchSpec, batch_specs
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import open_dataset
from imagesprint.records.image_record import ImageRecord

PHASES = (
    Phase((0, 2), (0.1, 0.1), "constant", 16, 4, 24, "24", 0.3),
    Phase((2, 3), (0.1, 0.2), "linear", 8, 2, 32, "full", 0.08),
)
RECIPE = Recipe("test", PHASES, seed=7, crop="distorted_bbox", flip=False, antialias=False, bad_records="substitute")
DRAWS = ((16, 3), (20, 6))
# 37 images: two epochs of two steps of four micro-batches
SPEC = BatchSpec(image_size=16, batch_size=16, epochs=2, micro_batch=4, seed=3, draws=DRAWS)

Rows = list[tuple[int, int, bytes, bytes, bytes]]  # of a sample: step, id, label, pixels and draws


def rows(source: Any, spec: Any, world_size: int = 1, start_step: int = 0, threads: int = 2) -> Rows:
    loaders = [Loader(source, spec, rank, world_size, start_step, threads=threads) for rank in range(world_size)]
    found: Rows = []
    for together in zip(*loaders, strict=True):
        for batch in together:
            columns = zip(batch.labels, batch.images, batch.draws, strict=True)
            bits = [tuple(tensor.numpy().tobytes() for tensor in row) for row in columns]
            found += [(batch.step, i, *row) for i, row in zip(batch.sample_ids.tolist(), bits, strict=True)]
    return found


def test_a_recipe_makes_its_specs() -> None:
    first, second = batch_specs(RECIPE, DRAWS)
    crop = CropSpec("distorted_bbox", 0.3, (3 / 4, 4 / 3), 0.1, flip=False, antialias=False)
    assert first == BatchSpec(24, 16, 2, None, 4, "24", crop, 7, "substitute", DRAWS)
    assert second == BatchSpec(32, 8, 1, None, 2, "full", replace(crop, min_area=0.08), 7, "substitute", DRAWS)
    with pytest.raises(RecipeError, match="micro_batch is auto"):
        batch_specs(replace(RECIPE, phases=(replace(PHASES[0], micro_batch=0),)))


def test_specs_give_the_batches_of_the_recipe_that_made_them(root_path: Path) -> None:
    expected = rows(root_path, RECIPE)
    assert rows(root_path, batch_specs(RECIPE)) == expected
    of_specs = Loader(root_path, batch_specs(RECIPE, DRAWS))
    assert [batch.draws.shape for batch in of_specs] == [(4, 9)] * 16 + [(2, 9)] * 16
    phase = replace(PHASES[0], min_area=0.08)
    assert rows(root_path, phase) == rows(root_path, BatchSpec(24, 16, epochs=2, source="24", micro_batch=4))
    assert rows(root_path, BatchSpec(24, 16, steps=3, source="24", micro_batch=4)) == rows(root_path, phase)[:48]


def test_a_batch_is_shared_by_the_ranks_where_no_micro_batch_is_given(root_path: Path) -> None:
    spec = replace(SPEC, micro_batch=0)
    whole = rows(root_path, spec)
    assert next(iter(Loader(root_path, spec))).images.shape == (16, 16, 16, 3)
    assert next(iter(Loader(root_path, spec, 1, 4))).images.shape == (4, 16, 16, 3)
    assert rows(root_path, spec, 4) == whole == rows(root_path, SPEC)
    with pytest.raises(RankError, match="3 ranks cannot share the 16 images of a step evenly"):
        Loader(root_path, spec, 0, 3)
    with pytest.raises(RankError, match="8 ranks cannot share the 4 micro-batches of a step evenly"):
        Loader(root_path, SPEC, 0, 8)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_len_is_what_comes(root_path: Path, world_size: int) -> None:
    for start, end in ((0, None), (3, None), (3, 6), (8, None)):
        loader = Loader(root_path, RECIPE, world_size - 1, world_size, start, end_step=end)
        assert len(list(loader)) == len(loader)
    assert len(Loader(root_path, RECIPE)) == 32
    dataset = open_dataset(root_path, "full", "validation")
    evaluation = EvaluationLoader(dataset, 16, 20, 4, world_size - 1, world_size)
    assert len(list(evaluation)) == len(evaluation)


def test_draws_do_not_depend_on_ranks_threads_or_start(root_path: Path) -> None:
    whole = rows(root_path, SPEC)
    assert len({row[4] for row in whole}) == len(whole) == 64
    assert rows(root_path, SPEC, 2) == rows(root_path, SPEC, 4) == rows(root_path, SPEC, threads=5) == whole
    for start in (1, 3):
        assert rows(root_path, SPEC, 2, start) == whole[16 * start :]


def test_draws_follow_from_seed_epoch_sample_and_purpose_alone(root_path: Path) -> None:
    for batch in Loader(root_path, SPEC):
        ids = batch.sample_ids.numpy()
        np.testing.assert_array_equal(batch.draws, sample_floats(3, batch.step // 2, ids, DRAWS))
    one = sample_floats(3, 0, np.arange(5), ((20, 6),))
    np.testing.assert_array_equal(sample_floats(3, 0, np.arange(5), DRAWS)[:, 3:], one)
    np.testing.assert_array_equal(sample_floats(3, 0, np.arange(5), ((20, 2),)), one[:, :2])


def test_by_default_there_are_no_draws(root_path: Path) -> None:
    assert {batch.draws.shape for batch in Loader(root_path, RECIPE)} == {(4, 0), (2, 0)}
    dataset = open_dataset(root_path, "full", "validation")
    assert {batch.draws.shape for batch in EvaluationLoader(dataset, 16, 20, 4)} == {(4, 0)}


def test_a_stand_in_has_its_own_draws(
    write_root: Callable[[Sequence[ImageRecord]], Path], train_records: list[ImageRecord]
) -> None:
    order = permutation(16, 3, 0).tolist()
    train_records[order[1]] = replace(train_records[order[1]], encoded=b"<html>")
    root = write_root(train_records)
    spec = BatchSpec(16, 16, epochs=1, seed=3, bad_records="substitute", draws=DRAWS)
    [batch] = Loader(root, spec)
    ids = np.array([order[0], order[2], *order[2:]])
    assert batch.sample_ids.tolist() == ids.tolist()
    np.testing.assert_array_equal(batch.draws, sample_floats(3, 0, ids, DRAWS))
    with pytest.raises(Exception, match="record") as caught:
        list(Loader(root, replace(spec, bad_records="stop")))
    assert 'bad_records="substitute"' in getattr(caught.value, "hint", "")


def test_the_floats_never_change_unnoticed() -> None:
    floats = sample_floats(123456789, 17, np.arange(5000) * 257, ((16, 1), (17, 7)))
    assert floats.dtype == np.float32
    assert floats.shape == (5000, 8)
    assert 0 <= floats.min() < 1e-4
    assert 1 - 1e-4 < floats.max() < 1
    assert abs(floats.mean() - 0.5) < 0.01
    np.testing.assert_array_equal(floats * 2**24, np.floor(floats * 2**24))
    assert (
        hashlib.sha256(floats.astype("<f4").tobytes()).hexdigest()
        == "beb74d0c5f869b96f7c33cb3d401b68364dc3d3a10695389be5921b78add88e9"
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": None}, "neither epochs and steps"),
        ({"steps": 3}, "both epochs and steps"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": None, "steps": -1}, "steps=-1"),
        ({"image_size": 0}, "image_size=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"micro_batch": 3}, "micro_batch=3"),
        ({"micro_batch": -4}, "micro_batch=-4"),
        ({"seed": -1}, "seed=-1"),
        ({"bad_records": "ignore"}, "bad_records='ignore'"),
        ({"draws": ((2, 1),)}, "draws="),
        ({"batch_size": 2**20, "micro_batch": 2**20, "image_size": 4096}, "micro_batch=1048576"),
        ({"draws": ((2**32, 1),)}, "draws="),
        ({"draws": ((16, 0),)}, "draws="),
        ({"draws": ((16, 1), (16, 2))}, "draws="),
    ],
)
def test_what_no_batch_can_be_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        replace(SPEC, **change)
    assert caught.value.hint


def test_wrong_use(root_path: Path) -> None:
    with pytest.raises(UsageError, match="batch_size 64 is more than the 37 training images"):
        Loader(root_path, replace(SPEC, batch_size=64))
    with pytest.raises(UsageError, match=r"seeds \[3, 4\]"):
        Loader(root_path, [SPEC, replace(SPEC, seed=4)])
    with pytest.raises(UsageError, match="0 specs"):
        Loader(root_path, [])
    with pytest.raises(UsageError, match="'large' is no variant"):
        Loader(root_path, replace(SPEC, source="large"))
