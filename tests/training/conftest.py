from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imagesprint.loading.batch import Batch
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml

Batches = Callable[[int], list[Batch]]


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path) -> Path:
    """The tiny recipe as a .toml file, as a user gives his own."""
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe))
    return path


@pytest.fixture(scope="session")
def batches() -> Batches:
    """Makes micro-batches of 8 noise images of 16 px of 7 classes; the same each time."""

    def make(count: int) -> list[Batch]:
        generator = np.random.default_rng(0)
        return [
            Batch(
                images=torch.from_numpy(generator.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)),
                labels=torch.from_numpy(generator.integers(0, 7, 8)),
                sample_ids=torch.arange(8),
                mask=torch.ones(8, dtype=torch.bool),
                step=0,
                draws=torch.empty((8, 0)),
            )
            for _ in range(count)
        ]

    return make
