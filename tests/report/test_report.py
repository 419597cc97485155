import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.evaluating.evaluation import Outcomes
from imagesprint.evaluating.results import details
from imagesprint.files import append_row, read_rows, write_rows
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import from_toml, to_toml
from imagesprint.records.dataset import open_dataset
from imagesprint.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from imagesprint.report.report import write_report

QUIET = Console(quiet=True)


def report(run: Path, **options: Any) -> str:
    return write_report(run, QUIET, **options).read_text(encoding="utf-8")


def drawn(text: str, axis: str, title: str, label: str) -> list[tuple[float, float]]:
    """The points of a line, read back from where it is drawn."""
    panel = text.split(f"over-{axis}")[-1].split("over-")[0]
    figure = next(part for part in panel.split("<figure>") if part.startswith(f"<figcaption><b>{title}"))
    ends = [float(re.search(rf'data-{end}="([^"]+)"', figure)[1]) for end in ("x-end", "y-low", "y-high")]  # type: ignore[index]
    points = re.search(rf'<polyline points="([^"]+)"[^>]*><title>{label}</title>', figure)
    assert points is not None
    places = [tuple(map(float, place.split(","))) for place in points[1].split()]
    return [
        (
            (x - LEFT) / (WIDTH - LEFT - RIGHT) * ends[0],
            ends[2] - (y - TOP) / (HEIGHT - TOP - BOTTOM) * (ends[2] - ends[1]),
        )
        for x, y in places
    ]


@pytest.fixture(scope="module")
def page(write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 16 steps and its report."""
    run = write_run(tmp_path_factory.mktemp("page") / "run", 16)
    return run, report(run)


@pytest.mark.parametrize(
    ("title", "label", "file", "key"),
    [
        ("Accuracy", "validation top-1", "evaluations", "top1"),
        ("Accuracy", "training top-1, augmented", "metrics", "top1"),
        ("Loss", "total", "metrics", "loss"),
        ("Loss", "without weight decay", "metrics", "cross_entropy"),
        ("Loss", r"weight decay \(L2\)", "metrics", "l2"),
        ("Learning rate", "learning rate", "metrics", "lr"),
        ("Image size", "image size", "metrics", "image_size"),
        ("Throughput", "images/s", "metrics", "images_per_second"),
    ],
)
def test_curves_are_those_of_the_files(page: tuple[Path, str], title: str, label: str, file: str, key: str) -> None:
    run, text = page
    rows = read_rows(run / f"{file}.jsonl")
    largest = max(row[key] for row in read_rows(run / "metrics.jsonl"))
    for axis, scale in (("epoch", 1), ("step", 1), ("seconds", 1 / 60)):
        found = drawn(text, axis, title, label)
        assert len(found) == len(rows)
        for (x, y), row in zip(found, rows, strict=True):
            at = 7.5 * row["step"] if axis == "seconds" else row[axis]
            assert x == pytest.approx(scale * at, rel=0.02, abs=0.02)
            assert y == pytest.approx(row[key], abs=0.002 * largest + 0.05 * (title == "Accuracy"))


def test_figures_are_those_of_the_files(write_run: Callable[..., Path], tmp_path: Path) -> None:
    text = report(write_run(tmp_path / "run", 16), price=36.0)
    for row in read_rows(tmp_path / "run" / "evaluations.jsonl"):
        assert f"<td>{row['epoch']:g}</td><td>{row['step']}</td><td>{row['top1']:.2f}" in text
    assert "<b>66.00%</b>top-1 at epoch 4" in text
    assert "<b>66.00%</b>best top-1, epoch 4" in text
    assert "<b>98</b>training images/s" in text  # the mean of 91 to 106
    assert "<b>2:00 min</b>wall time" in text
    assert "<b>1.20</b>cost, at 36 an hour" in text
    assert "Not finished: 16 steps, 4 epochs" in text
    (tmp_path / "run" / "result.json").write_text(
        json.dumps(
            {"steps": 16, "epochs": 4.0, "images_per_second": 98.0, "wall_seconds": 300, "top1": None}
            | {"interruptions": [{"reason": "killed", "step": 8, "time": None}]}
        )
    )
    text = report(tmp_path / "run")
    assert "<b>5:00 min</b>wall time" in text
    assert "killed, resumed after step 8" in text
    assert "Finished: 16 steps" in text


class _Requests(HTMLParser):
    """Collects all that could make a browser ask for something, and every script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.policies: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.policies += [given["content"]] if given.get("http-equiv") == "Content-Security-Policy" else []
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.found.append(tag)
        for name in ("src", "href", "srcset", "action", "xlink:href", "style", "poster", "background"):
            if name in given and not given[name].startswith(("data:image/", "#", "width:")):
                self.found.append(f"{tag} {name}={given[name]}")


def test_nothing_can_leave_the_page(write_run: Callable[..., Path], tmp_path: Path, tiny_recipe: Recipe) -> None:
    evil = replace(tiny_recipe, name='"><img src=http://example.org/x onerror=alert(1)>')
    text = report(write_run(tmp_path / "run", 8, evil))
    parser = _Requests()
    parser.feed(text)
    assert parser.found == []
    assert parser.policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not re.search(r"url\(|@import|<script", text)
    assert "&lt;img src=http" in text


def test_no_name_acts_on_the_page_instead_of_being_read(
    write_run: Callable[..., Path], tmp_path: Path, tiny_recipe: Recipe
) -> None:
    evil = replace(tiny_recipe, name="a\nb\x1b[2J\x9b\u2028\u202ec")
    run = write_run(tmp_path / "run", 8, evil)
    shown = r"a\nb\x1b[2J\x9b\u2028\u202ec"
    assert shown.replace(r"\n", "\n") in report(run)  # where a line break is a space
    assert f"# {evil.model}, trained by {shown}\n" in (run / "model-card.md").read_text()
    for file in ("report.html", "model-card.md", "recipe.toml"):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", (run / file).read_text())
    assert from_toml((run / "recipe.toml").read_text(), "") == evil


def test_plots_and_model_card_lie_beside_it(write_run: Callable[..., Path], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 8)
    assert report(run)
    for name in ("loss", "lr", "accuracy"):
        with Image.open(run / "plots" / f"{name}.png") as plot:
            assert min(plot.size) > 400
            assert len(plot.convert("RGB").getcolors(1 << 20) or []) > 20  # something is drawn
    card = (run / "model-card.md").read_text()
    assert "| 2, best | 18 | 58.00 | 90.50 | 0.2500 |" in card


def test_mistakes_are_shown_with_their_pictures(
    write_run: Callable[..., Path], tmp_path: Path, photo_root: Path
) -> None:
    run, dataset = write_run(tmp_path / "run", 8), open_dataset(photo_root, "32", "validation")
    predicted = np.zeros(18, np.int64)  # everything is taken for china
    right = dataset.labels == 0
    outcomes = Outcomes(right, np.ones(18, np.bool_), np.zeros(18), predicted, np.linspace(0.5, 0.9, 18))
    result = {
        "view": "plain", "step": 8, "epoch": 2.0, "num_images": 18, "top1": 50.0, "top5": 100.0, "loss": 0.5,
        "details": details(outcomes, dataset.labels, dataset.classes),
        "data": {"variant": "32", "fingerprint": dataset.fingerprint, "variants": ["full", "32"]},
    }  # fmt: skip
    (run / "evaluated").mkdir()
    file = run / "evaluated" / "step-0000008-0.json"
    file.write_text(json.dumps(result))
    (run / "evaluated" / "step-0000008-1.json").write_text(json.dumps(result | {"view": "48 px", "top1": 51.0}))
    (run / "evaluated" / "step-0000008-2.json").write_text("{")
    text = report(run, data=photo_root)
    assert text.count('src="data:image/jpeg;base64,') == 9
    surest = outcomes.probability[~right].max()
    assert f"flower, taken for <b>china</b>, {surest:.0%} sure" in text
    assert "<td>48 px</td><td>51.00</td><td>+1.00</td>" in text
    assert "<td>flower</td><td>china</td><td>9</td>" in text
    assert "Weakest class: flower" in (run / "model-card.md").read_text()
    other = {"variant": "32", "fingerprint": "other", "variants": ["full", "32"]}
    file.write_text(json.dumps(result | {"data": other}))
    assert "data:image/jpeg" not in report(run, data=photo_root)


def of_unequal_classes(run: Path, *means: float | None) -> None:
    """Put these means of classes into the evaluations; None leaves one as earlier versions wrote it."""
    rows = read_rows(run / "evaluations.jsonl")
    told = [{} if mean is None else {"mean_class_accuracy": mean} for mean in means]
    write_rows(run / "evaluations.jsonl", [row | more for row, more in zip(rows, told, strict=True)])


def test_the_mean_of_classes_stands_beside_top1_where_it_says_something(
    write_run: Callable[..., Path], tmp_path: Path, page: tuple[Path, str]
) -> None:
    run = write_run(tmp_path / "run", 16)
    of_unequal_classes(run, None, 41.25, 45.0, 50.5)
    text = report(run)
    assert "<b>50.50%</b>mean of classes" in text
    assert "<th>top-1 %</th><th>mean of classes %</th><th>top-5 %</th>" in text
    assert "<td>54.00</td><td></td><td>90.50</td>" in text
    assert [y for _, y in drawn(text, "step", "Accuracy", "validation, mean of classes")] == pytest.approx(
        [41.25, 45.0, 50.5], abs=0.3
    )
    assert "| 4, best | 18 | 66.00 | 50.50 | 90.50 | 0.1250 |" in (run / "model-card.md").read_text()
    of_unequal_classes(run, None, 58.2, 62.0, 66.0)  # nearly equal: in the table, and no curve on top of another
    text = report(run)
    assert "<td>58.00</td><td>58.20</td>" in text
    assert "validation, mean of classes" not in text
    assert "mean of classes" not in page[1]  # of an earlier version


def test_a_run_without_evaluations_has_a_report_too(write_run: Callable[..., Path], tmp_path: Path) -> None:
    assert "Nothing was evaluated yet" in report(write_run(tmp_path / "run", 2))
    assert "Nothing was evaluated yet" in (tmp_path / "run" / "model-card.md").read_text()


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "1.7e308", "1e-320"])
def test_figures_that_nobody_can_draw(write_run: Callable[..., Path], tmp_path: Path, figure: str) -> None:
    run = write_run(tmp_path / "run", 8)
    for name, key in (("evaluations", "loss"), ("metrics", "lr"), ("metrics", "loss")):
        if name == "metrics" and not figure.startswith("1"):
            continue  # what is no number ends a training before it is logged
        lines = (run / f"{name}.jsonl").read_text().splitlines()
        lines[-1] = json.dumps(json.loads(lines[-1]) | {key: float(figure)})
        (run / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    assert "<polyline" in report(run)


def test_what_is_wrong_with_the_files_is_said(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", 8)
    (run / "evaluated").mkdir()
    (run / "evaluated" / "step-0000008-0.json").write_text("{}")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-0000008.pt").write_bytes(b"PK")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')
    write_report(run, Console())
    said = capsys.readouterr().err
    for part in ("metrics.jsonl: its last line is cut short", "step-0000008-0.json is damaged: imagesprint evaluate"):
        assert part in said
    assert "step-0000008.pt" in said


def test_what_a_run_ran_on_and_was_warned_of_is_in_its_commands(write_run: Callable[..., Path], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 8)
    (run / "log.txt").write_text("2026-11-21T10:00:00 device      a toaster\n2026-11-21T10:00:00 warning: of the log\n")
    text = report(run)  # of before it was noted
    for name, value in (("device", "unknown"), ("decoder", "unknown"), ("interruptions", "none")):
        assert f"<th>{name}</th><td class=long>{value}</td>" in text
    assert "of the log" not in text
    here = {"device": "NVIDIA H200", "threads": 4, "decoder": "native (avx2)"}
    for row in (
        {"began": "2026-11-21T10:00:00", "step": 0, "ranks": 2, **here, "warnings": ["slow <disk>"]},
        {"ended": "2026-11-21T10:05:00", "step": 4, "reason": "SIGTERM", "warnings": ["slow <disk>", "bad record"]},
        {"began": "2026-11-21T10:10:00", "step": 4, "ranks": 1, **here, "decoder": "pillow"},
    ):
        append_row(run / "commands.jsonl", row)
    text = report(run)
    for name, value in (
        ("device", "NVIDIA H200, 2 ranks, 4 CPU threads each; NVIDIA H200, 1 rank, 4 CPU threads each"),
        ("decoder", "native (avx2); pillow"),
        ("interruptions", "SIGTERM, resumed after step 4"),
        ("warnings", "slow &lt;disk&gt;<br>bad record"),
    ):
        assert f"<th>{name}</th><td class=long>{value}</td>" in text


def test_what_is_no_run_is_wrong_usage(tmp_path: Path, tiny_recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="no run"):
        report(tmp_path)
    (tmp_path / "recipe.toml").write_text(to_toml(tiny_recipe))
    with pytest.raises(UsageError, match="no logged steps"):
        report(tmp_path)


def test_the_verb(imagesprint: Callable[..., Any], write_run: Callable[..., Path], tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first", 8), write_run(tmp_path / "second", 16)
    done = imagesprint("report", first, "--reference", second, "--json")
    assert done.code == 0, done.stderr
    assert done.json == {"report": str(first / "report.html")}
    done = imagesprint("report", first, second, "--price", 3)
    assert done.code == 2
    assert "of one run" in done.stderr
