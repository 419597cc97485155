from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imagesprint.files import write_text
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_dict, to_toml
from imagesprint.runs.ranks import Ranks


@pytest.fixture
def alone() -> Ranks:
    """The only rank, on the CPU."""
    return Ranks(0, 1, 0, 1, torch.device("cpu"))


def _half(value: torch.Tensor) -> torch.Tensor:
    return value / 2 if value.is_floating_point() else value  # counts of batches are no average


@pytest.fixture(scope="session")
def write_checkpoint(tiny_recipe: Recipe) -> Callable[..., Path]:
    """Writes the checkpoint of a step into a run directory, with weights that follow from the step, as `train` does."""

    def write(run: Path, step: int, ema: bool = False) -> Path:
        network = build_model(replace(tiny_recipe, seed=step), 2)
        content = {
            "model": network.state_dict(),
            "ema": {key: _half(value) for key, value in network.state_dict().items()} if ema else None,
            "step": step,
            "recipe": to_dict(tiny_recipe),
            "classes": ["china", "flower"],
            "num_train": 70,
        }
        path = run / "checkpoints" / f"step-{step:07d}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path.with_name(".new.tmp"))
        path.with_name(".new.tmp").replace(path)
        write_text(run / "recipe.toml", to_toml(tiny_recipe))
        return path

    return write
