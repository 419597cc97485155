from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.measuring.reporting.comparison import write_comparison
from imagesprint.recipes.recipe import Recipe

QUIET = Console(quiet=True)


def test_runs_stand_side_by_side(write_run: Callable[..., Path], tmp_path: Path, tiny_recipe: Recipe) -> None:
    paths = [write_run(tmp_path / "one", 8), write_run(tmp_path / "two", 16, replace(tiny_recipe, seed=7))]
    target = write_comparison(paths, QUIET)
    assert target == tmp_path / "one" / "comparison.html"
    text = target.read_text()
    assert "<td>one</td><td>tiny</td><td>2, not finished</td><td>58.00</td>" in text
    assert "<td>two</td><td>tiny</td><td>4, not finished</td><td>66.00</td>" in text
    assert "<td>seed</td><td>0</td><td>7</td>" in text
    assert text.count("<polyline") == 3 * 4 * 2  # axes, charts, runs


def test_more_runs_than_colours(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than can be told apart"):
        write_comparison([tmp_path] * 8, QUIET)


def test_runs_of_one_name_are_told_apart_by_their_paths(write_run: Callable[..., Path], tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for path in paths:
        path.parent.mkdir()
        write_run(path, 4)
    text = write_comparison(paths, QUIET).read_text()
    assert f"<td>{paths[0]}</td>" in text
    assert f"{paths[1]} against {paths[0]}</h3><p>" in text.replace("\n", "")
