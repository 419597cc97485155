"""Pixels are those of evaluation, and bad rows do not harm the others."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagesprint.images.decoders import VARIABLE
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_dataset
from imagesprint.using.image_reader import ImageReader


def test_pixels_are_those_that_evaluation_sees(photo_root: Path, tiny_recipe: Recipe) -> None:
    dataset = open_dataset(photo_root, "full", "validation")
    with EvaluationLoader(dataset, tiny_recipe.eval_image_size, tiny_recipe.eval_resize, len(dataset)) as loader:
        (expected,) = [batch.images.numpy().copy() for batch in loader]
    with ImageReader(tiny_recipe, threads=2) as reader:
        pixels, failures = reader.decode([bytes(dataset.read(sample)) for sample in range(len(dataset))])
    assert failures == {}
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("decoder", ["", "pillow"])
def test_bad_rows_have_errors_and_the_others_their_pixels(
    decoder: str, photos: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, decoder)
    good = (photos / "val/china/00.jpg").read_bytes()
    png = io.BytesIO()
    Image.open(io.BytesIO(good)).save(png, "PNG")
    with ImageReader(tiny_recipe, threads=2) as reader:
        alone, _ = reader.decode([good])
        pixels, failures = reader.decode([b"", good, b"some text", good[:-150], png.getvalue()])
        assert reader.decode([])[0].shape == (0, 24, 24, 3)
    assert sorted(failures) == [0, 2, 3]
    assert "begins with b'some text'" in failures[2].what
    assert failures[3].what.startswith("damaged: ")
    assert np.array_equal(pixels[1], alone[0])
    assert np.abs(pixels[4].astype(int) - alone[0]).max() <= 4  # Pillow's, which rounds otherwise
