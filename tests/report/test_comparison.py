"""Several runs on one page: repetitions together, recipes against one another."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.files import read_rows, write_rows
from imagesprint.recipes.recipe import Recipe
from imagesprint.report.comparison import Comparison, write_comparison
from imagesprint.report.repetitions import Spread, beginning, t_quantile, welch_margin

QUIET = Console(quiet=True)


def test_runs_stand_side_by_side(write_run: Callable[..., Path], tmp_path: Path, tiny_recipe: Recipe) -> None:
    paths = [write_run(tmp_path / "one", 8), write_run(tmp_path / "two", 16, replace(tiny_recipe, momentum=0.8))]
    target = write_comparison(paths, QUIET).path
    assert target == tmp_path / "one" / "comparison.html"
    text = target.read_text()
    assert "<td>one</td><td>tiny</td><td>0</td><td>2, not finished</td><td>58.00</td>" in text
    assert "<td>two</td><td>tiny</td><td>0</td><td>4, not finished</td><td>66.00</td>" in text
    assert "<td>momentum</td><td>0.9</td><td>0.8</td>" in text
    assert "standard deviation" not in text
    assert text.count("<polyline") == 3 * 4 * 2  # axes, charts, runs


def test_more_recipes_than_colours(write_run: Callable[..., Path], tmp_path: Path, tiny_recipe: Recipe) -> None:
    paths = [write_run(tmp_path / str(one), 4, replace(tiny_recipe, weight_decay=one / 100)) for one in range(8)]
    with pytest.raises(UsageError, match="8 recipes are more than can be told apart"):
        write_comparison(paths, QUIET)


def test_runs_of_one_name_are_told_apart_by_their_paths(write_run: Callable[..., Path], tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for path in paths:
        path.parent.mkdir()
        write_run(path, 4)
    text = write_comparison(paths, QUIET).path.read_text()
    assert f"<td>{paths[0]}</td>" in text
    assert f"<td>{paths[1]}</td>" in text


@pytest.fixture(scope="module")
def seeds(
    write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe
) -> tuple[list[Path], Comparison]:
    """Three seeds of a recipe and two of another, whose figures differ by known amounts, and their comparison."""
    folder = tmp_path_factory.mktemp("seeds")
    other = replace(tiny_recipe, label_smoothing=0.0)
    paths = [write_run(folder / f"plain-seed-{seed}", 8, replace(tiny_recipe, seed=seed)) for seed in range(3)]
    paths += [write_run(folder / f"sharp-seed-{seed}", 12, replace(other, seed=seed)) for seed in range(2)]
    for path, added in zip(paths, (0.0, 0.5, 0.7, 3.0, 3.2), strict=True):
        for name in ("metrics", "evaluations"):
            rows = read_rows(path / f"{name}.jsonl")
            write_rows(path / f"{name}.jsonl", [row | {"top1": row["top1"] + added} for row in rows])
    return paths, write_comparison(paths, QUIET)


def test_seeds_of_a_recipe_have_a_mean_and_a_spread(seeds: tuple[list[Path], Comparison]) -> None:
    paths, done = seeds
    plain, sharp = done.experiments
    assert (plain.name, plain.seeds, plain.epoch) == ("plain", (0, 1, 2), 2.0)
    assert (sharp.name, sharp.seeds, sharp.epoch) == ("sharp", (0, 1), 3.0)
    values = np.array([58.0, 58.5, 58.7])
    spread = plain.spreads["top1"]
    assert (spread.n, spread.lowest, spread.highest) == (3, 58.0, 58.7)
    assert (spread.mean, spread.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    text = done.path.read_text()
    assert f"<td>plain</td><td>0, 1, 2</td><td>2</td><td>{values.mean():.2f} ± {values.std(ddof=1):.2f}</td>" in text
    assert text.count("<polyline class=thin") == 3 * 4 * 5  # axes, charts, runs
    assert text.count("<polyline") == 3 * 4 * (5 + 2)
    assert "<td>label_smoothing</td><td>0.1</td><td>0.0</td>" in text
    assert "<td>seed</td>" not in text
    assert paths[0] == done.path.parent


def test_runs_that_came_less_far_are_compared_where_all_were(
    write_run: Callable[..., Path], tmp_path: Path, tiny_recipe: Recipe
) -> None:
    paths = [write_run(tmp_path / str(steps), steps, replace(tiny_recipe, seed=steps)) for steps in (8, 16)]
    (one,) = write_comparison(paths, QUIET).experiments
    assert one.epoch == 2.0
    assert one.values["top1"] == [58.0, 58.0]
    assert "All runs are of the same recipe" in (paths[0] / "comparison.html").read_text()


def test_a_difference_is_held_against_the_spread(seeds: tuple[list[Path], Comparison]) -> None:
    found = {one.figure.key: one for one in seeds[1].contrasts}
    top1 = found["top1"]
    ours, theirs = [58.0, 58.5, 58.7], [65.0, 65.2]
    wanted = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95)
    assert top1.interval == pytest.approx((wanted.low, wanted.high))
    assert (top1.runs, top1.exceeds) == ((3, 2), True)
    assert top1.sentence.startswith("sharp is 6.70 points of top-1 above plain: more than the seeds' spread explains")
    assert top1.sentence.endswith("3 and 2 runs); of so few runs that says little")
    assert found["loss"].exceeds is None  # all seeds have the same
    assert found["loss"].sentence.endswith("all alike, there is no spread to hold that against")


@pytest.mark.parametrize(
    ("runs", "title"),
    [
        (("plain-seed0", "plain-seed1"), "plain"),
        (("plain-seed10", "plain-seed11"), "plain"),
        (("resnet50_0", "resnet50_1"), "resnet50"),
        (("runs/a/seed-0", "runs/a/seed-1"), "runs/a"),
        (("0", "1"), "0"),
        (("alone-seed3",), "alone-seed3"),
    ],
)
def test_a_recipe_is_called_by_what_its_runs_names_begin_with(runs: tuple[str, ...], title: str) -> None:
    assert beginning(runs) == title


@pytest.mark.parametrize("freedom", [1.0, 1.3, 2.0, 7.7, 300.0])
def test_the_quantile_is_students(freedom: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


def test_a_single_run_or_no_number_has_no_interval() -> None:
    spread = Spread.of([1.0, 2.0, 4.0])
    assert welch_margin(spread, Spread.of([1.0])) is None
    assert welch_margin(spread, Spread.of([1.0, float("nan")])) is None
    assert welch_margin(spread, Spread.of([1.0, 1.0])) is not None


def test_the_same_seed_twice_and_other_data_are_warned_of(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_run(tmp_path / name, 4) for name in ("a", "b")]
    write_comparison(paths, Console())
    assert "warning: two runs of tiny have the same seed: they do not tell its spread" in capsys.readouterr().err
    assert "they do not tell its spread.</p>" in (paths[0] / "comparison.html").read_text()


def test_the_verb_has_the_figures(seeds: tuple[list[Path], Comparison], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", *map(str, seeds[0])]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    plain, sharp = told["experiments"]
    assert plain["runs"][2] == {"run": "plain-seed-2", "seed": 2}
    assert plain["figures"]["top1"]["n"] == 3
    assert sharp["figures"]["top1"]["mean"] == pytest.approx(65.1)
    top1 = next(one for one in told["differences"] if one["figure"] == "top1")
    assert (top1["a"], top1["b"], top1["exceeds"]) == ("plain", "sharp", True)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "plain      3  58.40 ± 0.36" in shown
    assert "sharp is 6.70 points of top-1 above plain" in shown


def test_recipes_are_compared_by_the_mean_of_classes_where_it_says_something(
    write_run: Callable[..., Path], tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = [replace(tiny_recipe, seed=seed) for seed in (0, 1)] + [replace(tiny_recipe, momentum=0.8)]
    paths = [write_run(tmp_path / name, 4, recipe) for name, recipe in zip("abc", recipes, strict=True)]
    for path, mean in zip(paths, (40.0, 42.0, 54.0), strict=True):
        (row,) = read_rows(path / "evaluations.jsonl")
        write_rows(path / "evaluations.jsonl", [row | {"mean_class_accuracy": mean}])
    assert main(["report", *map(str, paths)]) == 0
    shown = capsys.readouterr().out
    assert "mean of classes %" in shown
    assert "41.00 ± 1.41" in shown
    assert "c is 13.00 points of the mean of classes above a" in shown
    text = (paths[0] / "comparison.html").read_text()
    assert "<th>top-1 %</th><th>mean of classes %</th><th>best top-1 %</th>" in text
    assert text.count("<b>Validation, mean of classes, %</b>") == 3  # axes
    assert main(["report", str(paths[2]), str(paths[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experiments"][1]["figures"]["mean_class_accuracy"]["mean"] == 40.0
