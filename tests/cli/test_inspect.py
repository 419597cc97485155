from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.report.pictures import TILE

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

    balanced = replace(tiny_recipe, balance=True)
    (tmp_path / "recipe.toml").write_text(to_toml(balanced))
    done = imagesprint("inspect", photo_root, "--run", tmp_path, "--step", 6, "--output", sheet, "--json")
    assert done.json["ids"] == Loader(photo_root, balanced).sampler().batch(5).ids.tolist()


def test_what_is_not_there(imagesprint: Run, photo_root: Path, tmp_path: Path) -> None:
    for words, part in (
        (["--ids", "70"], "there is no sample 70"),
        (["--ids", "x"], "--ids x"),
        (["--step", "3"], "--run and --step"),
        (["--run", tmp_path, "--step", "3"], "there is no run"),
    ):
        done = imagesprint("inspect", photo_root, *words, "--output", tmp_path / "sheet.png")
        assert done.code == 2
        assert part in done.stderr
    assert not list(tmp_path.iterdir())
