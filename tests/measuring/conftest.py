from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.files import append_row, write_text
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import to_toml


@pytest.fixture(scope="session")
def write_run(tiny_recipe: Recipe) -> Callable[..., Path]:
    """Writes the files that a training of `steps` steps leaves, four an epoch, evaluated after each epoch."""

    def write(run: Path, steps: int, recipe: Recipe = tiny_recipe) -> Path:
        run.mkdir()
        write_text(run / "recipe.toml", to_toml(recipe))
        for step in range(1, steps + 1):
            shared: dict[str, Any] = {
                "step": step,
                "epoch": step / 4,
                "loss": 2 / step,
                "top1": 50 + step,
                "top5": 90.5,
            }
            phase = int(step > steps / 2)
            extra = {"phase": phase, "image_size": 16 + 4 * phase, "batch_size": 16, "lr": 0.1 / step, "seconds": 7.5}
            losses = {"cross_entropy": 1.5 / step, "l2": 0.5 / step, "images_per_second": 90.0 + step}
            append_row(run / "metrics.jsonl", {**shared, **extra, **losses, "data_wait": 0.02 * (step % 3)})
            if step % 4 == 0:
                append_row(run / "evaluations.jsonl", {**shared, "num_images": 18, "checkpoint": None})
        return run

    return write
