"""Crops drawn for many batches at once are those that each batch would have drawn alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imagesprint.images.crops import draw_training_crops
from imagesprint.loading import loader, sampling
from imagesprint.loading.batch import Load
from imagesprint.loading.loader import Loader
from imagesprint.loading.sampling import ShuffledSampler, batch_specs
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule

# 37 images: two epochs of 4 steps of 4 micro-batches; in the third another phase begins after 2 steps; then a third one
PHASES = (
    Phase(None, (0.1, 0.1), "constant", 8, 2, 24, "full", 0.3, steps=(0, 10)),
    Phase(None, (0.1, 0.1), "constant", 8, 2, 32, "24", 0.08, steps=(10, 15)),
    Phase(None, (0.1, 0.1), "constant", 12, 6, 32, "full", 0.08, steps=(15, 17)),
)
RECIPE = Recipe("test", PHASES, seed=7, crop="distorted_bbox")
SCHEDULE = Schedule(RECIPE, 37)


@pytest.fixture(params=[1, 20, 4096])
def drawn_together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    for module in (loader, sampling):
        monkeypatch.setattr(module, "DRAWN_TOGETHER", request.param)
    number: int = request.param
    return number


@pytest.mark.parametrize("crop", ["random_resized", "distorted_bbox"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.usefixtures("drawn_together")
def test_each_load_is_what_it_would_be_alone(root_path: Path, crop: str, rank: int) -> None:
    recipe, sampler = replace(RECIPE, crop=crop), ShuffledSampler(SCHEDULE, 7)
    loads = Loader(root_path, recipe, rank, 2, 3).loads()
    for step in range(3, 17):
        phase, spec = SCHEDULE.phase(step), batch_specs(recipe)[SCHEDULE.phase_index(step)]
        for index in range(rank, phase.micro_batches, 2):
            load, ids = next(loads), sampler.micro_batch(step, index).ids
            assert (load.dataset.variant, load.step, load.rows) == (phase.source, step, phase.micro_batch)
            assert load.shape == (phase.image_size, phase.image_size)
            np.testing.assert_array_equal(load.sample_ids, ids)
            boxes = [load.dataset.boxes(i) for i in ids.tolist()]
            epoch = SCHEDULE.position(step).epoch
            crops, flips = draw_training_crops(spec.crop, 7, load.dataset.sizes[ids], boxes, epoch, ids)
            np.testing.assert_array_equal(load.crops, crops)
            np.testing.assert_array_equal(load.flips, flips)
    assert next(loads, None) is None


def drawn_with(load: Load) -> int:
    """How many samples were drawn together with those of `load`."""
    assert load.crops.base is not None
    return len(load.crops.base)


def test_no_more_are_drawn_together_than_that_or_a_step(root_path: Path, drawn_together: int) -> None:
    drawn = [drawn_with(load) for load in Loader(root_path, RECIPE).loads()]
    assert max(drawn) == {1: 12, 20: 16, 4096: 80}[drawn_together]
