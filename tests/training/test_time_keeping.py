"""The arithmetic of a plan, and of what becomes of it on the way."""

import time
from dataclasses import replace

import pytest

from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.rows import MetricsRow
from imagesprint.training.metering import Cadence
from imagesprint.training.time_plan import Portion, TimeKeeper, TimePlan, Timetable, step_work

RECIPE = Recipe(
    name="test",
    eval_every=2,
    phases=(
        Phase((0, 3), (0.1, 0.1), "constant", 8, 8, 16),
        Phase((3, 5), (0.1, 0.1), "constant", 16, 8, 32),
    ),
)
SCHEDULE = Schedule(RECIPE, num_train=104)  # 13 steps an epoch, then 6: epochs end at 13, 26, 39, 45, 51
CADENCE = Cadence(SCHEDULE, 2, None, 51)
PLAN = TimePlan(5.0, (1.0, 2.0), 10.0, 0.5, ("data", "compute"), "made up")


def row(phase: int, steps: int, seconds: float) -> MetricsRow:
    batch_size = RECIPE.phases[phase].batch_size
    speed = steps * batch_size / seconds
    return MetricsRow(100, 0, phase, 1, 1, 0, 50, 100, 0.1, batch_size, 16, speed, 0, seconds)


def test_work_of_a_command_that_goes_on() -> None:
    timetable = Timetable(CADENCE, 20)
    assert timetable.whole() == Portion((19, 12), evaluations=3, checkpoints=4)  # 26, 45, 51; 26, 39, 45, 51
    assert timetable.before(25) == Portion((5, 0), 0, 0)
    assert timetable.before(26) == Portion((6, 0), 1, 1)
    assert timetable.after(26) == Portion((13, 12), 2, 3)
    assert PLAN.seconds(timetable.whole()) == 19 + 2 * 12 + 3 * 10 + 4 * 0.5


def test_time_left_follows_what_was_measured() -> None:
    keeper = TimeKeeper(step_work(RECIPE, 10), CADENCE, 0, PLAN, time.monotonic())
    assert keeper.planned() == 5 + 39 + 24 + 30 + 2.5
    assert keeper.left(0) == 39 + 24 + 30 + 2.5
    assert not keeper.steps(row(0, 10, seconds=20.0))  # twice as long as planned
    # Its phase goes on as it did, the one to come is as far off, evaluations are as planned.
    assert keeper.left(10) == pytest.approx(2 * 29 + 4 * 12 + 30 + 2.5)
    with keeper.evaluation():
        pass
    assert keeper.left(26) == pytest.approx(2 * 13 + 4 * 12 + 3 * 0.5, abs=0.1)


def test_without_a_plan_the_first_steps_make_one() -> None:
    keeper = TimeKeeper(step_work(RECIPE, 10), CADENCE, 0, None, time.monotonic())
    assert keeper.left(0) is None
    assert keeper.comparison(51) is None
    assert keeper.steps(row(0, 10, seconds=5.0))
    assert keeper.left(10) == pytest.approx(0.5 * 29 + 8 * 0.5 * 12)  # by their pixels
    assert not keeper.steps(row(0, 10, seconds=5.0))


def test_what_is_frozen_takes_no_backward_pass() -> None:
    phase = replace(RECIPE.phases[0], epochs=None, steps=(0, 1), image_size=32)
    freezes = ("backbone", "stages 2", "none")
    recipe = replace(RECIPE, model="resnet20", phases=tuple(replace(phase, freeze=freeze) for freeze in freezes))
    head, some, whole = step_work(recipe, 10)
    assert whole / head == pytest.approx(3, rel=0.03)  # forward, and for inputs and weights as much again each
    assert some / head == pytest.approx(1 + 2 / 3, rel=0.05)  # as its stages take equally much
    in_order = Schedule(
        replace(recipe, phases=tuple(replace(row, steps=(i, i + 1)) for i, row in enumerate(recipe.phases))), 8
    )
    keeper = TimeKeeper((head, some, whole), Cadence(in_order, 0, None, 3), 0, None, time.monotonic())
    keeper.steps(row(0, 1, seconds=2.0))
    assert keeper.left(1) == pytest.approx(2 * (some + whole) / head)


def test_comparison() -> None:
    keeper = TimeKeeper(step_work(RECIPE, 10), CADENCE, 0, PLAN, time.monotonic())
    keeper.steps(row(0, 39, seconds=40.0))
    keeper.steps(row(1, 12, seconds=30.0))
    compared = keeper.comparison(51)
    assert compared is not None
    parts = {part.part: (part.count, part.planned_seconds, part.seconds) for part in compared.parts}
    assert parts["phase 0"] == (39, 39.0, 40.0)
    assert parts["phase 1"] == (12, 24.0, 30.0)
    assert parts["evaluations"] == (3, 30.0, 0.0)
    assert compared.planned_seconds == 5 + 39 + 24 + 30 + 2.5
    assert compared.origin == "made up"
    ended_early = keeper.comparison(26)
    assert ended_early is not None
    assert ended_early.planned_seconds == 5 + 26 + 10 + 2 * 0.5
