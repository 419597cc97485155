from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imagesprint.console import Console
from imagesprint.diagnosis.accuracy_data import data_checks
from imagesprint.diagnosis.check import FAILURE, OK, WARNING, Check
from imagesprint.prepare.preparing import prepare
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_root
from imagesprint.report.run_record import RunRecord, Saved
from imagesprint.runs.rows import EvaluationRow

MEAN = (130.0, 120.0, 110.0)


@pytest.fixture
def look(tiny_recipe: Recipe) -> Callable[..., dict[str, Check]]:
    """Looks at a root for a run of `tiny_recipe` on it."""

    def checks(root: Path, num_images: int = 18, mean: Any = None, **checkpoint: Any) -> dict[str, Check]:
        recipe = tiny_recipe if mean is None else replace(tiny_recipe, mean=mean)
        row = EvaluationRow(4, 1.0, num_images, 50.0, 100.0, 1.0, None)
        record = RunRecord(Path("run"), recipe, [], [row], None, Saved(**checkpoint), [], [], [])
        found = data_checks(record, open_root(root))
        assert all(check.hint for check in found if check.status != OK)
        return {check.name: check for check in found}

    return checks


@pytest.fixture(scope="module")
def mean(photos: Path) -> tuple[float, ...]:
    """Of the photos, by channel."""
    images = [np.asarray(Image.open(file)).mean(axis=(0, 1)) for file in photos.glob("train/*/*.jpg")]
    return tuple(np.mean(images, axis=0).tolist())


@pytest.fixture
def rewritten(photos: Path, tmp_path: Path) -> Callable[[Callable[[Image.Image], Image.Image]], Path]:
    """Prepares the photos as `change` makes them."""

    def root(change: Callable[[Image.Image], Image.Image]) -> Path:
        for file in photos.glob("*/*/*.jpg"):
            target = tmp_path / "photos" / file.relative_to(photos)
            target.parent.mkdir(parents=True, exist_ok=True)
            change(Image.open(file)).save(target, quality=90)
        prepare(tmp_path / "photos", tmp_path / "root", variants=("full",), workers=1, console=Console(quiet=True))
        return tmp_path / "root"

    return root


def test_the_data_of_the_run(look: Callable[..., dict[str, Check]], photo_root: Path, mean: Any) -> None:
    found = look(photo_root, mean=mean, classes=("china", "flower"), num_train=70)
    assert {check.status for check in found.values()} == {OK}
    assert found["data"].detail == "2 classes and 70 training images, as in the run"
    assert found["evaluated images"].detail == "all 18, each once"


def test_other_classes_and_other_numbers(look: Callable[..., dict[str, Check]], photo_root: Path) -> None:
    other = look(photo_root, classes=("china", "rose"))["data"]
    assert (other.status, other.detail.endswith("; class 1 is rose there and flower here")) == (FAILURE, True)
    more = look(photo_root, classes=("china", "flower", "rose"))["data"]
    assert (more.status, "knows 3 classes" in more.detail) == (FAILURE, True)
    assert look(photo_root, num_train=71)["data"].status == WARNING
    assert look(photo_root, num_images=24)["evaluated images"].status == FAILURE  # some counted twice


def test_classes_without_images(
    look: Callable[..., dict[str, Check]], write_foreign: Callable[..., Path], tmp_path: Path, imagesprint: Any
) -> None:
    data = write_foreign(tmp_path / "foreign", first_label=2)
    assert imagesprint("index", data).code == 0
    root = next(path for path in (data, *data.iterdir()) if (path / "full").is_dir() or path == data)
    found = look(root, num_images=6)["classes"]
    assert found.status == WARNING
    assert "not class 0 (" in found.detail
    assert "off by one" in found.hint


def test_letterboxed_photos(look: Callable[..., dict[str, Check]], rewritten: Callable[..., Path]) -> None:
    root = rewritten(lambda photo: ImageOps.pad(photo.resize((96, 56)), (96, 96), color=(114, 114, 114)))
    found = look(root)["letterboxing"]
    assert (found.status, found.detail) == (WARNING, "100% of 70 images of 96 × 96 px have bars at two edges")


def test_squares_without_bars_and_small_ones(
    look: Callable[..., dict[str, Check]], rewritten: Callable[..., Path]
) -> None:
    found = look(rewritten(lambda photo: photo.resize((96, 96))))["letterboxing"]
    assert (found.status, "without bars" in found.detail) == (OK, True)


def test_colours_in_the_wrong_order(
    look: Callable[..., dict[str, Check]], rewritten: Callable[..., Path], mean: Any
) -> None:
    tinted = tuple(np.add(mean, (30, 0, -30)).tolist())

    def swapped(photo: Image.Image) -> Image.Image:
        pixels = np.clip(np.add(np.asarray(photo), (30, 0, -30)), 0, 255).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))

    found = look(rewritten(swapped), mean=tinted)["colours"]
    assert (found.status, found.detail.endswith("the order may be reversed")) == (WARNING, True)


def test_a_mean_that_is_not_that_of_the_images(look: Callable[..., dict[str, Check]], photo_root: Path) -> None:
    found = look(photo_root, mean=(0.5, 0.5, 0.5))["colours"]
    assert found.status == WARNING
    assert found.hint.startswith("train anew with --set mean=")
