"""The cost of loading is what loading takes, whichever decoder is at work."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imagesprint.diagnosis import stage_costs
from imagesprint.diagnosis.stage_costs import LoadingCost, LoadingSpeed, measure_loading
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_root


def test_threads_share_the_decoding_alone() -> None:
    cost = LoadingCost(decoding=0.003, serial=0.001)
    assert [cost.images_per_second(threads) for threads in (1, 3)] == pytest.approx([250, 500])


@pytest.mark.parametrize(
    ("together", "decoding", "serial"),
    [
        (2e-3, 3e-3, 1e-3),
        (1e-3, 4e-3, 0.0),  # faster than three threads can be: noise
        (5e-3, 0.0, 4e-3),  # threads are no help
    ],
)
def test_two_speeds_fix_two_costs(together: float, decoding: float, serial: float) -> None:
    cost = LoadingCost.fitted([LoadingSpeed(1, 4e-3, {}), LoadingSpeed(3, together, {})])
    assert (cost.decoding, cost.serial) == pytest.approx((decoding, serial))


@pytest.mark.parametrize("decoder", ["native", "pillow"])
def test_measured_cost(decoder: str, photo_root: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_costs, "LOADING_SECONDS", 0.1)
    if decoder == "pillow":
        monkeypatch.setenv("IMAGESPRINT_DECODER", decoder)
    phase = replace(tiny_recipe.phases[0], epochs=None, steps=(0, 10_000), batch_size=64, micro_batch=32)
    began = time.perf_counter()
    root, recipe = open_root(photo_root), replace(tiny_recipe, phases=(phase,))
    speeds = measure_loading(lambda threads: Loader(root, recipe, threads=threads), (1, 2))
    spent = time.perf_counter() - began
    alone = speeds[0].seconds
    assert LoadingCost.fitted(speeds).images_per_second(1) == pytest.approx(1 / alone)
    assert list(speeds[1].shares) == ["read", "crc", "jpeg", "resize"]
    assert sum(speeds[1].shares.values()) == pytest.approx(1)
    assert 3 * 7 * 32 * alone < spent  # in each of three rounds seven batches were loaded by one thread


class SlowLoader(Loader):
    """Batches of 4 images that take 8 ms by one thread, 4 by two."""

    def __init__(self, threads: int) -> None:
        self.seconds = 0.008 / threads
        self.stages = np.zeros(4, np.int64)

    def __iter__(self) -> Iterator[Batch]:
        nothing = torch.zeros(4)
        batch = Batch(nothing, nothing, nothing, nothing, 0, nothing)
        while True:
            time.sleep(self.seconds)
            yield batch

    def close(self) -> None:
        """Nothing is open."""


def test_no_faster_than_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_costs, "LOADING_SECONDS", 0.1)
    cost = LoadingCost.fitted(measure_loading(SlowLoader, (1, 2)))
    assert 100 < cost.images_per_second(1) <= 500  # to sleep takes longer on a busy machine, never shorter
    assert cost.images_per_second(1) < cost.images_per_second(2)
