import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.errors import DataError
from imagesprint.evaluating.evaluation import (
    Outcomes,
    blank_table,
    correct_counts,
    evaluate,
    evaluation_set,
    judge,
    mean_class_accuracy,
    read_table,
)
from imagesprint.images.native import is_available
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.records.image_record import bytes_feature
from imagesprint.runs.ranks import Ranks


def test_first_and_among_the_first_five() -> None:
    logits = torch.tensor([[9, 8, 7, 6, 5, 4, 3], [3, 4, 5, 6, 7, 8, 9.0]])
    for labels, expected in (([0, 6], [2, 2]), ([1, 0], [0, 1]), ([4, 2], [0, 2]), ([5, 1], [0, 0])):
        assert correct_counts(logits, torch.tensor(labels)).tolist() == expected


def test_fewer_than_five_classes() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    assert correct_counts(logits, torch.tensor([0, 1])).tolist() == [1, 2]


def test_a_class_of_few_counts_as_much_as_one_of_many() -> None:
    labels = np.array([0, 0, 0, 0, 2, 2, 5], np.int32)  # nobody is of class 1, 3 or 4
    right = np.array([True, True, True, False, False, True, False])
    assert mean_class_accuracy(right, labels) == (75 + 50 + 0) / 3
    assert mean_class_accuracy(np.ones(7, np.bool_), labels) == 100


def judged(root: Path, recipe: Recipe, world_size: int) -> Outcomes | None:
    dataset = open_dataset(root, "32", "validation")
    model = TrainedModel(build_model(recipe, 2), recipe, dataset.classes, 70).eval()
    total = blank_table(len(dataset), torch.device("cpu"))
    for rank in range(world_size):
        table = torch.zeros_like(total)
        judge(model, EvaluationLoader(dataset, 24, 28, 4, rank, world_size, 1, shape=recipe.eval_shape), table)
        total += table
    return read_table(total)


@pytest.mark.parametrize(("world_size", "shape"), [(2, "square"), (3, "rectangle"), (7, "square")])
def test_ranks_together_come_to_the_same_bits_as_one(
    photo_root: Path, tiny_recipe: Recipe, world_size: int, shape: str
) -> None:
    recipe = replace(tiny_recipe, eval_shape=shape)
    alone, together = judged(photo_root, recipe, 1), judged(photo_root, recipe, world_size)
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


def test_every_image_counts_once_and_as_it_should(photo_root: Path, tiny_recipe: Recipe, alone: Ranks) -> None:
    root = open_root(photo_root)
    model = TrainedModel(build_model(tiny_recipe, 2), tiny_recipe, root.classes, num_train=70)
    dataset = evaluation_set(root, model)
    assert (dataset.variant, dataset.split, len(dataset)) == ("32", "validation", 18)
    found = evaluate(model, dataset, alone)

    correct, loss = 0, 0.0
    for sample in range(len(dataset)):
        with Image.open(io.BytesIO(dataset.read(sample))) as image:
            side = round(min(image.size) * 24 / 28)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            small = image.crop((left, top, left + side, top + side)).resize((24, 24), Image.Resampling.BILINEAR)
        with torch.inference_mode():
            logits = model(torch.from_numpy(np.array(small))[None])[0]
        label = int(dataset.labels[sample])
        correct += int(logits.argmax() == label)
        loss += float(logits.logsumexp(0) - logits[label])
    assert found.num_images == 18
    assert found.top1 == pytest.approx(100 * correct / 18)
    assert found.top5 == 100
    assert found.mean_class_accuracy == pytest.approx(found.top1)  # nine images each
    assert found.loss == pytest.approx(loss / 18, rel=1e-5)


@pytest.mark.skipif(not is_available(), reason="the native decoder is not built")
def test_images_that_go_to_pillow_are_counted(
    imagesprint: Callable[..., Any],
    write_foreign: Callable[..., Path],
    tiny_recipe: Recipe,
    tmp_path: Path,
    alone: Ranks,
) -> None:
    def to_png(record: dict[str, Any]) -> dict[str, Any]:
        encoded, file = b"".join(record["image/encoded"]), io.BytesIO()
        Image.open(io.BytesIO(encoded[encoded.index(b"\xff\xd8") :])).save(file, "PNG")
        return record | {"image/encoded": bytes_feature([file.getvalue()])}

    root_path = write_foreign(tmp_path / "root", change=to_png)
    assert imagesprint("index", root_path).code == 0
    root = open_root(root_path)
    model = TrainedModel(build_model(tiny_recipe, 2), tiny_recipe, root.classes, num_train=40)
    found = evaluate(model, evaluation_set(root, model), alone)
    assert (found.num_images, found.fallbacks) == (6, 6)


def test_data_of_other_classes_is_refused(photo_root: Path, tiny_recipe: Recipe) -> None:
    model = TrainedModel(build_model(tiny_recipe, 2), tiny_recipe, ("cat", "dog"), num_train=70)
    with pytest.raises(DataError, match="other names"):
        evaluation_set(open_root(photo_root), model)
