from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.cli.main import main
from imagesprint.errors import UsageError
from imagesprint.recipes.library import load_recipe
from imagesprint.report.run_record import (
    Reference,
    ReferencePoint,
    RunRecord,
    Saved,
    find_reference,
    read_run,
    reference_names,
    verdict,
)
from imagesprint.runs.rows import RunResult

IMAGENET = Saved(classes=tuple(str(i) for i in range(1000)))


@pytest.fixture
def record(write_run: Callable[..., Path], tmp_path: Path) -> RunRecord:
    """Top-1 54, 58, 62 and 66 after 1, 2, 3 and 4 epochs; not finished."""
    return read_run(write_run(tmp_path / "run", 16))


def reference(kind: str, *points: tuple[float, float]) -> Reference:
    return Reference("them", "resnet50", (), kind, "", tuple(ReferencePoint(e, t) for e, t in points))


@pytest.mark.parametrize(
    ("points", "keeps_up", "sentence"),
    [
        ([(2, 61.1), (40, 76)], False, "3.1 points under them at epoch 2"),
        ([(1, 10), (2.5, 60.5)], True, "On track: 0.5 points under them at epoch 2.5"),
        ([(4, 66.0)], True, "On track: 0.0 points over them at epoch 4"),
        ([(3, 50.0)], True, "12.0 points over them at epoch 3"),
        ([(20.2, 50.6)], True, "No verdict yet: the first figure of them is for epoch 20.2"),
        ([(0.5, 10.0), (9, 70)], True, "No verdict yet: the first figure of them is for epoch 0.5"),
    ],
)
def test_the_verdict_is_on_the_latest_point_that_both_have(
    record: RunRecord, points: list[tuple[float, float]], keeps_up: bool, sentence: str
) -> None:
    assert verdict(record, reference("curve", *points)) == (keeps_up, sentence)


def test_what_runs_came_to_is_compared_with_a_finished_run_alone(record: RunRecord) -> None:
    ends = reference("ends", (3, 70.0), (5, 80.0))
    assert verdict(record, ends)[1].startswith("No verdict yet")
    assert verdict(replace(record, result=RunResult(16, 4.0, 98.0, 300.0)), ends) == (
        False,
        "4.0 points under them at epoch 3",
    )


def test_published_references_are_found_by_name_and_by_recipe(record: RunRecord) -> None:
    assert reference_names() == ["classic", "ffcv", "minutes104", "torchvision"]
    for name in reference_names():
        found = find_reference(record, name)
        assert found is not None
        assert found.name == name
        assert found.source
        assert found.kind in ("curve", "ends")
        assert all(0 < point.top1 < 100 for point in found.points)
    assert find_reference(record, None) is None
    ours = replace(record, recipe=load_recipe("minutes104"), checkpoint=IMAGENET)
    found = find_reference(ours, None)
    assert found is not None
    assert [point.top1 for point in found.points] == [50.6, 72.8, 75.56]
    assert find_reference(replace(ours, checkpoint=Saved(classes=("a", "b"))), None) is None  # on one's own photos


def test_the_help_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in reference_names())


def test_another_run_is_a_reference(record: RunRecord, write_run: Callable[..., Path], tmp_path: Path) -> None:
    other = find_reference(record, str(write_run(tmp_path / "other", 8)))
    assert other is not None
    assert verdict(record, other) == (True, "On track: 0.0 points over other at epoch 2")
    with pytest.raises(UsageError, match="no such reference"):
        find_reference(record, "minutes10")
    with pytest.raises(UsageError, match="nothing was evaluated"):
        find_reference(record, str(write_run(tmp_path / "new", 3)))
