from pathlib import Path

import pytest

from imagesprint.checkpoints.naming import checkpoint_path
from imagesprint.checkpoints.retention import KEEP_ALL, Retention
from imagesprint.errors import UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule

STEPS = [4, 6, 8, 12, 16]  # of four steps an epoch
TOP1 = {4: 10.0, 6: 70.0, 12: 60.0, 20: 99.0}  # the last was removed before, or is another run's


@pytest.mark.parametrize(
    ("rule", "gone"),
    [
        ("all", []),
        ("last:1", [4, 6, 8, 12]),
        ("last:3", [4, 6]),
        ("epochs:2", [4, 6, 12]),
        ("best", [4, 8, 12]),
        ("last:2,best", [4, 8]),
    ],
)
def test_what_goes(tiny_recipe: Recipe, tmp_path: Path, rule: str, gone: list[int]) -> None:
    schedule = Schedule(tiny_recipe, 70)
    assert Retention.parse(rule).dispensable(STEPS, schedule, TOP1) == gone
    (tmp_path / "checkpoints").mkdir()
    for step in STEPS:
        checkpoint_path(tmp_path, step).touch()
    found = Retention.parse(rule).surplus(tmp_path, schedule, lambda: TOP1)
    assert found == [checkpoint_path(tmp_path, step) for step in gone]


@pytest.mark.parametrize("rule", ["", "none", "last:0", "last:", "epochs:x", "all,best", "best:2", "last:2, best"])
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(UsageError, match="--keep"):
        Retention.parse(rule)


def test_how_many_stay_at_most() -> None:
    assert KEEP_ALL.count(100, 50) == 100
    assert Retention.parse("last:3,best").count(100, 50) == 4
    assert Retention.parse("epochs:10").count(100, 50) == 6
    assert Retention.parse("last:9").count(2, 50) == 2


def test_space_that_is_not_there_is_told_in_figures(tmp_path: Path) -> None:
    KEEP_ALL.check_space(tmp_path, 1, 10, 1)
    KEEP_ALL.check_space(tmp_path, 1 << 50, 0, 1)
    with pytest.raises(UsageError, match=r"GiB left, but 7 checkpoints of 1048576\.00 GiB .* 8388608\.00 GiB"):
        KEEP_ALL.check_space(tmp_path, 1 << 50, 7, 1)
    with pytest.raises(UsageError, match=r"but 2 checkpoints of "):
        Retention(last=2).check_space(tmp_path, 1 << 50, 7, 1)
