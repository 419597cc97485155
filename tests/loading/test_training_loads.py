"""Crops drawn for many batches at once are those that each batch would have drawn alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imagesprint.images.crops import draw_training_crops
from imagesprint.loading import loader
from imagesprint.loading.batch import Load
from imagesprint.loading.loader import Sampler, TrainingLoads
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Dataset, open_dataset

# 37 images: two epochs of 4 steps of 4 micro-batches; in the third another phase begins after 2 steps; then a third one
PHASES = (
    Phase(None, (0.1, 0.1), "constant", 8, 2, 24, "full", 0.3, steps=(0, 10)),
    Phase(None, (0.1, 0.1), "constant", 8, 2, 32, "24", 0.08, steps=(10, 15)),
    Phase(None, (0.1, 0.1), "constant", 12, 6, 32, "full", 0.08, steps=(15, 17)),
)
RECIPE = Recipe("test", PHASES, seed=7, crop="distorted_bbox")
SCHEDULE = Schedule(RECIPE, 37)


@pytest.fixture
def datasets(root_path: Path) -> list[Dataset]:
    return [open_dataset(root_path, phase.source, "train") for phase in PHASES]


@pytest.fixture(params=[1, 20, 4096])
def drawn_together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(loader, "DRAWN_TOGETHER", request.param)
    number: int = request.param
    return number


@pytest.mark.parametrize("crop", ["random_resized", "distorted_bbox"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.usefixtures("drawn_together")
def test_each_load_is_what_it_would_be_alone(datasets: list[Dataset], crop: str, rank: int) -> None:
    recipe, sampler = replace(RECIPE, crop=crop), Sampler(SCHEDULE, 7)
    loads = iter(TrainingLoads(recipe, SCHEDULE, datasets, range(3, 17), (rank, 2)))
    for step in range(3, 17):
        number, phase = SCHEDULE.phase_index(step), SCHEDULE.phase(step)
        for index in range(rank, phase.micro_batches, 2):
            load, ids = next(loads), sampler.micro_batch(step, index)
            assert (load.dataset, load.step, load.rows) == (datasets[number], step, phase.micro_batch)
            assert load.image_size == phase.image_size
            np.testing.assert_array_equal(load.sample_ids, ids)
            boxes = [load.dataset.boxes(i) for i in ids.tolist()]
            epoch = SCHEDULE.position(step).epoch
            crops, flips = draw_training_crops(recipe, phase, load.dataset.sizes[ids], boxes, epoch, ids)
            np.testing.assert_array_equal(load.crops, crops)
            np.testing.assert_array_equal(load.flips, flips)
    assert next(loads, None) is None


def drawn_with(load: Load) -> int:
    """How many samples were drawn together with those of `load`."""
    assert load.crops.base is not None
    return len(load.crops.base)


def test_no_more_are_drawn_together_than_that_or_a_step(datasets: list[Dataset], drawn_together: int) -> None:
    drawn = [drawn_with(load) for load in TrainingLoads(RECIPE, SCHEDULE, datasets, range(17), (0, 1))]
    assert max(drawn) == {1: 12, 20: 16, 4096: 80}[drawn_together]
