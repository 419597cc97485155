from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagesprint.cli.main import main
from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.report.pictures import TILE
from imagesprint.training.transforms import seen_in_step

Run = Callable[..., Any]


def test_named_samples_and_those_of_a_step(
    imagesprint: Run, photo_root: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    done = imagesprint("inspect", photo_root, "--ids", "3,60", "--output", sheet, "--json")
    assert done.code == 0, done.stderr
    assert done.json == {"output": str(sheet), "variant": "full", "ids": [3, 60]}
    image = Image.open(sheet)
    assert image.width == 2 * TILE
    assert len(image.getcolors(1 << 20) or ()) > 1000  # photos, not a blank page

    (tmp_path / "recipe.toml").write_text(to_toml(tiny_recipe))
    done = imagesprint("inspect", photo_root, "--run", tmp_path, "--step", 6, "--output", sheet, "--json")
    assert done.code == 0, done.stderr
    assert (done.json["variant"], len(done.json["ids"])) == ("32", 16)
    assert Image.open(sheet).size == (8 * TILE, 4 * (TILE + 28))  # each beside what the network saw

    balanced = replace(tiny_recipe, balance=True)
    (tmp_path / "recipe.toml").write_text(to_toml(balanced))
    done = imagesprint("inspect", photo_root, "--run", tmp_path, "--step", 6, "--output", sheet, "--json")
    assert done.json["ids"] == Loader(photo_root, balanced).sampler().batch(5).ids.tolist()


def test_what_the_network_sees_is_there_before_the_training(
    photo_root: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    file, sheet = tmp_path / "mine.toml", tmp_path / "sheet.png"
    file.write_text(to_toml(tiny_recipe))
    shown = ["inspect", str(photo_root), "--recipe", str(file), "--step", "6", "--output", str(sheet)]
    tiles = []
    for words in ([], ["--set", "augment=erasing 1"]):
        assert main([*shown, *words]) == 0
        tiles.append([Image.open(sheet).crop((left, 0, left + TILE, TILE)).tobytes() for left in (0, TILE)])
    (stored, seen), (again, erased) = tiles
    assert again == stored
    assert erased != seen


def test_what_the_network_saw_is_what_the_step_takes(photo_root: Path, tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, augment=("mixup 1",))
    root = open_root(photo_root)
    plain, mixed = seen_in_step(root, tiny_recipe, 5), seen_in_step(root, recipe, 5)
    size = recipe.phases[0].micro_batch
    for row, (one, other) in enumerate(zip(plain, mixed, strict=True)):
        before = plain[row // size * size + (row - 1) % size]
        assert one.sample_id == other.sample_id
        assert one.targets == [(int(root.dataset("32", "train").labels[one.sample_id]), 1.0)]
        assert sum(share for _, share in other.targets) == pytest.approx(1)
        assert {label for label, _ in other.targets} == {one.targets[0][0], before.targets[0][0]}
        low, high = np.minimum(one.image, before.image), np.maximum(one.image, before.image)
        assert ((low <= other.image) & (other.image <= high)).all()


def test_what_is_not_there(photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, part in (
        (["--ids", "70"], "there is no sample 70"),
        (["--ids", "x"], "--ids x"),
        (["--step", "3"], "--step with --run or --recipe"),
        (["--ids", "3", "--recipe", "small"], "--step with --run or --recipe"),
        (["--ids", "3", "--set", "seed=1"], "--set changes the recipe of --recipe"),
        (["--recipe", "small", "--step", "3", "--split", "validation"], "no training steps"),
        (["--recipe", "small", "--step", "3", "--set", "augment=cutmax 1"], "did you mean cutmix?"),
        (["--run", str(tmp_path), "--step", "3"], "there is no run"),
    ):
        assert main(["inspect", str(photo_root), *words, "--output", str(tmp_path / "sheet.png")]) == 2
        assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
