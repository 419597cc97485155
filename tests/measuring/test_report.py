import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagesprint.errors import UsageError
from imagesprint.files import append_row, write_text
from imagesprint.measuring.report import write_report
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import to_toml


def write_run(run: Path, recipe: Recipe, steps: int) -> None:
    run.mkdir()
    write_text(run / "recipe.toml", to_toml(recipe))
    for step in range(1, steps + 1):
        shared = {"step": step, "epoch": step / 4, "loss": 2 / step, "top1": 50 + step, "top5": 90.0}
        phase = int(step > steps / 2)
        extra = {"phase": phase, "image_size": 16 + 4 * phase, "lr": 0.1, "cross_entropy": 1 / step, "l2": 1 / step}
        append_row(run / "metrics.jsonl", {**shared, **extra, "images_per_second": 100.0, "data_wait": 0.02})
        if step % 4 == 0:
            append_row(run / "evaluations.jsonl", {**shared, "num_images": 18, "checkpoint": None})


def test_the_report_is_one_file_without_references(tmp_path: Path, tiny_recipe: Recipe) -> None:
    write_run(tmp_path / "run", tiny_recipe, steps=8)
    report = write_report(tmp_path / "run")
    assert report == tmp_path / "run" / "report.html"
    text = report.read_text()
    assert "top-1" in text
    assert "58.00%" in text  # of the last evaluation
    assert "resnet20" in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count('src="data:image/png;base64,') == 3
    for name in ("loss", "lr", "accuracy"):
        with Image.open(tmp_path / "run" / "plots" / f"{name}.png") as plot:
            assert min(plot.size) > 400
            assert len(plot.convert("RGB").getcolors(1 << 20) or []) > 20  # something is drawn


def test_a_run_without_evaluations_has_a_report_too(tmp_path: Path, tiny_recipe: Recipe) -> None:
    write_run(tmp_path / "run", tiny_recipe, steps=2)
    assert "Nothing was evaluated yet" in write_report(tmp_path / "run").read_text()


def test_what_is_no_run_is_wrong_usage(tmp_path: Path, tiny_recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="no run"):
        write_report(tmp_path)
    (tmp_path / "recipe.toml").write_text(to_toml(tiny_recipe))
    with pytest.raises(UsageError, match="no logged steps"):
        write_report(tmp_path)


def test_the_verb(imagesprint: Callable[..., Any], tmp_path: Path, tiny_recipe: Recipe) -> None:
    write_run(tmp_path / "run", tiny_recipe, steps=4)
    done = imagesprint("report", tmp_path / "run", "--json")
    assert done.code == 0, done.stderr
    assert done.json == {"report": str(tmp_path / "run" / "report.html")}
    assert imagesprint("report", tmp_path / "no").code == 2
