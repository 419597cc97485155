"""Evaluation against one pass over the images by hand."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imagesprint.errors import DataError
from imagesprint.evaluating.evaluation import evaluate, evaluation_set
from imagesprint.images.native_library import is_available
from imagesprint.model.building import build_model
from imagesprint.model.weights import TrainedModel
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_root
from imagesprint.records.example import bytes_feature
from imagesprint.runs.ranks import Ranks


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
    assert set(found.figures()) == {"num_images", "top1", "top5", "loss"}


def test_data_of_other_classes_is_refused(photo_root: Path, tiny_recipe: Recipe) -> None:
    model = TrainedModel(build_model(tiny_recipe, 2), tiny_recipe, ("cat", "dog"), num_train=70)
    with pytest.raises(DataError, match="other names"):
        evaluation_set(open_root(photo_root), model)
