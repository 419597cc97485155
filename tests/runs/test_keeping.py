import pytest

from imagesprint.errors import UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.keeping import KEEP_ALL, Keep

STEPS = [4, 6, 8, 12, 16]  # of four steps an epoch


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
def test_what_goes(tiny_recipe: Recipe, rule: str, gone: list[int]) -> None:
    top1 = {4: 10.0, 6: 70.0, 12: 60.0, 20: 99.0}  # the last was removed before, or is another run's
    assert Keep.parse(rule).dispensable(STEPS, Schedule(tiny_recipe, 70), top1) == gone


@pytest.mark.parametrize("rule", ["", "none", "last:0", "last:", "epochs:x", "all,best", "best:2", "last:2, best"])
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(UsageError, match="--keep"):
        Keep.parse(rule)


def test_how_many_stay_at_most() -> None:
    assert KEEP_ALL.count(100, 50) == 100
    assert Keep.parse("last:3,best").count(100, 50) == 4
    assert Keep.parse("epochs:10").count(100, 50) == 6
    assert Keep.parse("last:9").count(2, 50) == 2
