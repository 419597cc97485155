from pathlib import Path

import numpy as np
import pytest
import torch

from imagesprint.evaluating.outcomes import Outcomes, blank_table, judge, read_table
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.building import build_model
from imagesprint.model.weights import TrainedModel
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_dataset


def judged(root: Path, recipe: Recipe, world_size: int) -> Outcomes | None:
    dataset = open_dataset(root, "32", "validation")
    model = TrainedModel(build_model(recipe, 2), recipe, dataset.classes, 70).eval()
    total = blank_table(len(dataset), torch.device("cpu"))
    for rank in range(world_size):
        table = torch.zeros_like(total)
        judge(model, EvaluationLoader(dataset, 24, 28, 4, rank, world_size, 1), table)
        total += table
    return read_table(total)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_together_come_to_the_same_bits_as_one(photo_root: Path, tiny_recipe: Recipe, world_size: int) -> None:
    alone, together = judged(photo_root, tiny_recipe, 1), judged(photo_root, tiny_recipe, world_size)
    assert alone is not None
    assert together is not None
    assert len(alone) == 18
    for key, value in vars(alone).items():
        assert np.array_equal(value, getattr(together, key)), key
    assert 0 < alone.top1.sum() < 18  # that they agree means something
    labels = open_dataset(photo_root, "32", "validation").labels
    assert np.array_equal(alone.predicted == labels, alone.top1)


def test_a_table_that_lacks_an_image_says_nothing() -> None:
    table = blank_table(3, torch.device("cpu"))
    table[[0, 2], 0] = 1
    assert read_table(table) is None
