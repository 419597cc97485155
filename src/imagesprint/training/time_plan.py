"""How long a training is expected to take, by what its time goes to, and what a command's time went to."""

import bisect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from imagesprint.model.flops import training_flops
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Root
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import MetricsRow, PartTime, PlanComparison
from imagesprint.training.metering import Cadence


@dataclass(frozen=True)
class TimePlan:
    """Seconds: `start_up` from the command to its first step, `steps[i]` a step of phase i, on all ranks together,
    `evaluation` and `checkpoint` one of each.

    `limits[i]` says what a step of phase i needs the most time for: data, copy, compute or reduction; it is empty where
    that is not known. `origin` says for people where the figures are from. `features` of the start-up are for making
    features, where the recipe has them once.
    """

    start_up: float
    steps: tuple[float, ...]
    evaluation: float
    checkpoint: float
    limits: tuple[str, ...]
    origin: str
    features: float = 0.0

    def seconds(self, work: "Portion") -> float:
        """Return the seconds that `work` takes, without the start-up."""
        steps = sum(count * seconds for count, seconds in zip(work.steps, self.steps, strict=True))
        return steps + work.evaluations * self.evaluation + work.checkpoints * self.checkpoint


# For a recipe whose precision and micro-batches are settled, and whether its steps are compiled: what is known of its
# time, and lines for people on what it asks of the stores that data and run lie in.
Planner = Callable[[Recipe, Root, Ranks, bool], tuple[TimePlan | None, list[str]]]


@dataclass(frozen=True)
class Portion:
    """A part of a training: so many steps of each phase, evaluations and checkpoints."""

    steps: tuple[int, ...]
    evaluations: int
    checkpoints: int


class Timetable:
    """What a command that begins after step `start` does when."""

    def __init__(self, cadence: Cadence, start: int) -> None:
        self._start, self._bounds, self._until = start, cadence.schedule.bounds, cadence.until
        self._evaluations, self._checkpoints = cadence.evaluations(start), cadence.checkpoints(start)

    def before(self, step: int) -> Portion:
        """Return the work from the command's beginning to the end of what is done after `step`."""
        return Portion(
            tuple(max(0, min(end, step) - max(begin, self._start)) for begin, end in self._bounds),
            bisect.bisect_right(self._evaluations, step),
            bisect.bisect_right(self._checkpoints, step),
        )

    def whole(self) -> Portion:
        """Return the work of the whole command."""
        return self.before(self._until)

    def after(self, step: int) -> Portion:
        """Return the work that is left once all that is due after `step` is done."""
        done, whole = self.before(step), self.whole()
        steps = tuple(all_of - so_far for so_far, all_of in zip(done.steps, whole.steps, strict=True))
        return Portion(steps, whole.evaluations - done.evaluations, whole.checkpoints - done.checkpoints)


def step_work(recipe: Recipe, num_classes: int) -> tuple[float, ...]:
    """Return how much is computed in a step of each phase, in a unit of its own.

    Where all phases train the same tensors it goes by pixels, near enough, else by FLOP, which are counted.
    """
    if len({phase.freeze for phase in recipe.phases}) == 1:
        return tuple(float(phase.batch_size * phase.image_size**2) for phase in recipe.phases)
    return tuple(phase.batch_size * training_flops(recipe, phase, num_classes) for phase in recipe.phases)


class TimeKeeper:
    """Keeps the time of a command that goes on from step `start`. `plan` is None where nothing is known beforehand: the
    first logged steps then make one, by `work`, how much a step of each phase computes (`step_work`). `began` is when
    the command did, by time.monotonic().
    """

    def __init__(
        self, work: Sequence[float], cadence: Cadence, start: int, plan: TimePlan | None, began: float
    ) -> None:
        self.plan = plan
        self._began = began
        self._timetable = Timetable(cadence, start)
        self._work = work
        self._start_up = 0.0
        self._counts = [0] * len(work)  # of logged steps
        self._seconds = [0.0] * len(work)  # that they took
        self._evaluations: list[float] = []
        self._checkpoints: list[float] = []

    def begin(self) -> None:
        """Note that the first step begins now."""
        self._start_up = time.monotonic() - self._began - sum(self._evaluations)

    def steps(self, row: MetricsRow) -> bool:
        """Count the steps of a row of metrics. Where there is no plan it makes one, and True is returned."""
        self._counts[row.phase] += row.step - row.before
        self._seconds[row.phase] += row.seconds
        if self.plan is not None:
            return False
        phase, count = row.phase, self._counts[row.phase]
        steps = tuple(row.seconds / count * work / self._work[phase] for work in self._work)
        origin = f"estimated from the first {count} steps, without evaluations and checkpoints"
        self.plan = TimePlan(self._start_up, steps, 0.0, 0.0, (), origin)
        return True

    def evaluation(self) -> AbstractContextManager[None]:
        """Count what is done inside as an evaluation."""
        return _timed(self._evaluations)

    def checkpoint(self) -> AbstractContextManager[None]:
        """Count what is done inside as the time that training waits for a checkpoint."""
        return _timed(self._checkpoints)

    def planned(self) -> float:
        """Return the seconds that the whole command is planned to take."""
        assert self.plan is not None
        return self.plan.start_up + self.plan.seconds(self._timetable.whole())

    def left(self, step: int) -> float | None:
        """Return the seconds that are left after `step`, as they went so far; None where nothing is known yet."""
        return None if self.plan is None else self._revised(self.plan).seconds(self._timetable.after(step))

    def _revised(self, plan: TimePlan) -> TimePlan:
        """The plan with what was measured meanwhile; phases to come are off by as much as those that came were."""
        planned = sum(count * seconds for count, seconds in zip(self._counts, plan.steps, strict=True))
        factor = sum(self._seconds) / planned if planned else 1.0
        measured = zip(self._counts, self._seconds, plan.steps, strict=True)
        steps = tuple(seconds / count if count else factor * before for count, seconds, before in measured)
        return replace(
            plan,
            steps=steps,
            evaluation=_mean(self._evaluations, plan.evaluation),
            checkpoint=_mean(self._checkpoints, plan.checkpoint),
        )

    def comparison(self, step: int) -> PlanComparison | None:
        """Return the plan beside what the command took up to `step`, where it ended, as result.json has it; None where
        no step was logged.

        Its parts are start-up, each phase, evaluations, checkpoints, and the rest, which is not planned.
        """
        plan = self.plan
        if plan is None or not any(self._counts):
            return None
        work, took = self._timetable.before(step), time.monotonic() - self._began
        parts = [PartTime("start-up", 1, plan.start_up, self._start_up)]
        phases = enumerate(zip(work.steps, plan.steps, self._seconds, strict=True))
        parts += [PartTime(f"phase {i}", count, count * each, spent) for i, (count, each, spent) in phases if count]
        for name, count, each, spent in (
            ("evaluations", work.evaluations, plan.evaluation, self._evaluations),
            ("checkpoints", work.checkpoints, plan.checkpoint, self._checkpoints),
        ):
            parts.append(PartTime(name, count, count * each, sum(spent)))
        parts.append(PartTime("rest", 1, 0.0, max(0.0, took - sum(part.seconds for part in parts))))
        return PlanComparison(plan.origin, plan.start_up + plan.seconds(work), took, tuple(parts))


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    """Append how long what is done inside took."""
    began = time.monotonic()
    yield
    seconds.append(time.monotonic() - began)


def _mean(measured: list[float], otherwise: float) -> float:
    return sum(measured) / len(measured) if measured else otherwise
