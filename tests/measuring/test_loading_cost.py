"""The cost of loading is counted whole, whichever decoder is at work."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.loading.loader import Loader
from imagesprint.measuring import loading_cost
from imagesprint.measuring.loading_cost import LoadingCost, measure_loading
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_root


def test_threads_share_the_decoding_alone() -> None:
    cost = LoadingCost(decoding=0.003, serial=0.001, rows=1_000_000)
    assert [cost.images_per_second(threads) for threads in (1, 3)] == pytest.approx([250, 500])


def test_threads_wait_for_the_last_of_them() -> None:
    cost = LoadingCost(decoding=0.004, serial=0.0, rows=8)
    assert cost.images_per_second(2) == pytest.approx(8 / (8.5 * 0.002))


@pytest.mark.parametrize("decoder", ["native", "pillow"])
def test_measured_cost(decoder: str, photo_root: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_cost, "_SECONDS", 0.1)
    if decoder == "pillow":
        monkeypatch.setenv("IMAGESPRINT_DECODER", decoder)
    phase = replace(tiny_recipe.phases[0], epochs=None, steps=(0, 10_000), batch_size=64, micro_batch=32)
    began = time.process_time()
    with Loader(open_root(photo_root), replace(tiny_recipe, phases=(phase,))) as loader:
        cost = measure_loading(loader, phase.micro_batch, phase.image_size)
    spent = time.process_time() - began
    assert min(cost.decoding, cost.serial) > 0
    assert 64 * (cost.decoding + cost.serial) < spent  # of at least two batches
