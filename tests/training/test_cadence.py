from dataclasses import replace

import pytest

from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.training.cadence import Cadence

RECIPE = Recipe(
    name="test",
    phases=(
        Phase((0, 3), (0.1, 0.1), "constant", 8, 8, 16),
        Phase((3, 5), (0.1, 0.1), "constant", 16, 8, 16),
    ),
)
SCHEDULE = Schedule(RECIPE, num_train=104)  # 13 steps an epoch, then 6: epochs end at 13, 26, 39, 45, 51


def steps(when: object) -> list[int]:
    return [step for step in range(1, 52) if when(step)]  # type: ignore[operator]


@pytest.mark.parametrize(("every", "expected"), [(1, [13, 26, 39, 45, 51]), (2, [26, 45, 51]), (0, [51])])
def test_evaluation(every: int, expected: list[int]) -> None:
    assert steps(Cadence(SCHEDULE, every, None, 51).evaluate) == expected


def test_checkpoints() -> None:
    assert steps(Cadence(SCHEDULE, 1, None, 51).checkpoint) == [13, 26, 39, 45, 51]
    assert steps(Cadence(SCHEDULE, 1, 20, 51).checkpoint) == [20, 40, 51]
    assert [step for step in range(1, 31) if Cadence(SCHEDULE, 1, 20, 30).checkpoint(step)] == [20, 30]


@pytest.mark.parametrize("start", [0, 13, 20, 51])
@pytest.mark.parametrize("until", [51, 39, 30])
@pytest.mark.parametrize(("eval_every", "checkpoint_every"), [(1, None), (2, 20), (0, 13)])
def test_lists_hold_the_steps_at_which_it_is_due(
    start: int, until: int, eval_every: int, checkpoint_every: int | None
) -> None:
    cadence = Cadence(SCHEDULE, eval_every, checkpoint_every, until)
    ahead = range(start + 1, until + 1)
    assert cadence.evaluations(start) == [step for step in ahead if cadence.evaluate(step)]
    assert cadence.checkpoints(start) == [step for step in ahead if cadence.checkpoint(step)]


def test_logged_windows_end_wherever_something_happens() -> None:
    logged = steps(Cadence(SCHEDULE, 0, 7, 51).log)
    assert logged == sorted({*range(7, 52, 7), *range(10, 52, 10), 39, 51})


def test_phases_in_steps() -> None:
    phases = (replace(RECIPE.phases[0], epochs=None, steps=(0, 20)),)
    schedule = Schedule(replace(RECIPE, phases=phases), num_train=104)
    cadence = Cadence(schedule, 1, None, 20)
    assert [step for step in range(1, 21) if cadence.evaluate(step)] == [13, 20]
