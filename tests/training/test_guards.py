"""A batch that goes wrong is found by its step, and its samples are named; overflows are counted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imagesprint.errors import RunError
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import Ranks
from imagesprint.training.guards import EXPLODED, LossGuard
from imagesprint.training.meter import Meter
from imagesprint.training.optimizer import l2_loss
from imagesprint.training.prefetch import on_device
from imagesprint.training.stage_times import StageTimes
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))


def with_nan(batches: Iterator[Batch], step: int, seen: list[int]) -> Iterator[Batch]:
    """Put a NaN into one pixel of the first batch of `step`; `seen` gets the sample ids of that step."""
    for batch in batches:
        if batch.step != step:
            yield batch
            continue
        seen += batch.sample_ids.tolist()
        images = batch.images.double()
        images[0, 0, 0, 0] = float("nan")
        yield replace(batch, images=images)


def test_a_nan_in_one_batch_is_reported_with_its_step_and_samples(photo_root: Path, tiny_recipe: Recipe) -> None:
    state, seen = TrainingState(tiny_recipe, open_root(photo_root).classes, ALONE.device), list[int]()
    with Loader(photo_root, tiny_recipe, threads=1, end_step=8) as loader:
        step, schedule = TrainingStep(state, ALONE), loader.schedule
        batches = on_device(with_nan(iter(loader), 5, seen), ALONE.device)
        meter = Meter(schedule, loader, ALONE, StageTimes(loader, batches, step, ALONE))
        for number in range(8):
            sums = step(batches, schedule.phase(number), schedule.lr(number))
            meter.add(sums, state.sums.gradients)
        with pytest.raises(RunError) as caught:
            meter.row(8, l2_loss(state.optimizer))
    assert len(seen) == 16
    listed = ", ".join(map(str, seen))
    lr = schedule.lr(5)
    assert caught.value.what == f"the loss is nan at step 6, learning rate {lr:.5g}, 16 samples with ids {listed}"
    assert "imagesprint inspect ROOT --run RUN --step 6" in caught.value.hint


def test_what_is_too_large_or_infinite(tiny_recipe: Recipe) -> None:
    from imagesprint.recipes.schedule import Schedule

    guard = LossGuard(Schedule(tiny_recipe, 70), 0)
    guard.check(10, [1.0, EXPLODED], 5.0)
    with pytest.raises(RunError, match=r"the loss is 1001 at step 9,"):
        guard.check(10, [1001.0, 1.0], 5.0)
    with pytest.raises(RunError, match=r"weights are not finite any more \(their L2 loss is inf\) at step 10,"):
        guard.check(10, [1.0, 1.0], float("inf"))


def test_overflows_of_fp16_are_counted(photo_root: Path, tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, precision="fp16")
    with Loader(photo_root, recipe, threads=1, end_step=3) as loader:
        step = TrainingStep(TrainingState(tiny_recipe, ("china", "flower"), ALONE.device), ALONE)
        stages = StageTimes(loader, on_device(iter(loader), ALONE.device), step, ALONE)
        meter = Meter(loader.schedule, loader, ALONE, stages)
        sums = torch.tensor([16.0, 4, 4, 16])
        for gradient in (1.0, float("inf"), float("nan")):
            meter.add(sums, [torch.ones(3), torch.tensor([gradient, 0])])
        assert meter.row(3, torch.zeros(())).overflows == 2
