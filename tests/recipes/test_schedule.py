"""From a step to its phase, rate and place in the data."""

import math
from dataclasses import replace

import pytest

from imagesprint.errors import RecipeError
from imagesprint.recipes.library import builtin_names, load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Position, Schedule

IMAGENET = 1_281_167


def in_epochs(*rows: tuple[int, int, int]) -> Recipe:
    """Phases of (start, end, batch_size)."""
    return Recipe("t", tuple(Phase((a, b), (0.1, 0.1), "constant", size, 1, 8) for a, b, size in rows))


def in_steps(*rows: tuple[int, int, int]) -> Recipe:
    return Recipe("t", tuple(Phase(None, (0.1, 0.1), "constant", size, 1, 8, steps=(a, b)) for a, b, size in rows))


def with_lr(first: float, last: float, method: str) -> Schedule:
    return Schedule(Recipe("t", (Phase(None, (first, last), method, 1, 1, 8, steps=(0, 10)),)), 10)


def test_minutes104_has_the_steps_and_rates_of_the_design() -> None:
    schedule = Schedule(load_recipe("minutes104"), IMAGENET)
    assert schedule.total_steps == 19_683
    assert schedule.bounds == ((0, 1296), (1296, 4536), (4536, 11411), (11411, 14679), (14679, 19683))
    rates = {0: 1.0, 625: 1.48225, 1296: 2.0, 1875: 1.72301, 4536: 0.45, 5000: 0.36471, 15000: 0.00383}
    for step, rate in rates.items():
        assert schedule.lr(step) == pytest.approx(rate, abs=5e-6), step
    assert schedule.epochs_done(19_683) == 40


def test_minutes104_epochs_are_those_of_its_rows() -> None:
    recipe = load_recipe("minutes104")
    schedule = Schedule(recipe, IMAGENET)
    for phase, (start, _) in zip(recipe.phases, schedule.bounds, strict=True):
        assert phase.epochs is not None
        assert schedule.position(start)[:2] == (phase.epochs[0], 0)
        assert schedule.epochs_done(start) == phase.epochs[0]
        assert schedule.is_epoch_start(start)


def test_baseline90_takes_about_the_steps_of_classic() -> None:
    assert Schedule(load_recipe("baseline90"), IMAGENET).total_steps == 90 * 5004
    assert Schedule(load_recipe("classic"), IMAGENET).total_steps == 500_000


def test_a_rate_that_changes_in_mid_epoch_does_not_restart_the_permutation() -> None:
    schedule = Schedule(load_recipe("classic"), IMAGENET)
    batches = IMAGENET // 256
    epoch, batch = divmod(150_000, batches)
    assert batch != 0
    assert schedule.position(150_000) == Position(epoch, batch, batches, 256)
    assert schedule.lr(149_999) == 0.1
    assert schedule.lr(150_000) == 0.01
    assert not schedule.is_epoch_start(150_000)


def test_another_batch_size_begins_a_new_epoch_and_a_cut_one_counts() -> None:
    # 10 images: epochs of 5 batches, of which 7 steps take one and a part; then epochs of 2.
    schedule = Schedule(in_steps((0, 7, 2), (7, 10, 5)), 10)
    places = [schedule.position(step)[:2] for step in range(10)]
    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    assert schedule.epochs_done(6) == 1.2
    assert schedule.epochs_done(7) == 2
    assert schedule.epochs_done(10) == 3.5
    assert [step for step in range(11) if schedule.is_epoch_start(step)] == [0, 5, 7, 9, 10]


def test_the_last_partial_batch_of_an_epoch_is_dropped() -> None:
    schedule = Schedule(in_epochs((0, 3, 4)), 11)
    assert schedule.total_steps == 6
    assert schedule.position(5) == Position(2, 1, 2, 4)


def test_a_batch_as_large_as_the_set_is_one_step_an_epoch() -> None:
    assert Schedule(in_epochs((0, 3, 10)), 10).total_steps == 3


@pytest.mark.parametrize("num_train", [9, 0, -1])
def test_a_batch_larger_than_the_set_names_the_row(num_train: int) -> None:
    with pytest.raises(RecipeError, match=r"phases\.1: batch_size 10 .*" + str(num_train)):
        Schedule(in_epochs((0, 1, -1), (1, 2, 10)), num_train)


def test_the_four_methods() -> None:
    assert with_lr(1.0, 3.0, "linear").lr(5) == 2.0
    assert with_lr(1.0, 0.01, "exponential").lr(5) == pytest.approx(0.1)
    assert with_lr(1.0, 0.5, "cosine").lr(0) == 1.0
    assert with_lr(1.0, 0.5, "cosine").lr(5) == pytest.approx(0.75)
    assert with_lr(1.0, 0.0, "cosine").lr(9) == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)
    assert with_lr(0.3, 0.3, "constant").lr(9) == 0.3


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_training_is_an_index_error(step: int) -> None:
    schedule = with_lr(1, 1, "constant")
    for call in (schedule.lr, schedule.position, schedule.phase, schedule.phase_index):
        with pytest.raises(IndexError):
            call(step)
    with pytest.raises(IndexError):
        schedule.epochs_done(11)


@pytest.mark.parametrize("name", builtin_names())
def test_the_table_agrees_with_the_single_answers(name: str) -> None:
    recipe = load_recipe(name)
    schedule = Schedule(recipe, 7000)
    rows = [row for row in schedule.table() if row.step % 97 == 0 or row.step in dict(schedule.bounds)]
    for row in rows:
        phase = schedule.phase(row.step)
        assert recipe.phases[row.phase] is phase
        assert row.lr == schedule.lr(row.step)
        assert row.epoch == schedule.position(row.step).epoch == int(schedule.epochs_done(row.step))
        assert (row.batch_size, row.image_size) == (phase.batch_size, phase.image_size)


def test_the_schedule_does_not_depend_on_the_micro_batch() -> None:
    recipe = load_recipe("small")
    other = replace(recipe, phases=tuple(replace(phase, micro_batch=phase.batch_size) for phase in recipe.phases))
    assert list(Schedule(recipe, 500).table()) == list(Schedule(other, 500).table())
