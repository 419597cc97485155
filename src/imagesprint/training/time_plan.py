"""How long a training is expected to take, by what its time goes to. Pure."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass

from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Root
from imagesprint.runs.ranks import Ranks
from imagesprint.training.cadence import Cadence

LIMITS = ("data", "copy", "compute", "reduction")  # what steps may be limited by


@dataclass(frozen=True)
class TimePlan:
    """Seconds: `start_up` from the command to its first step, `steps[i]` a step of phase i, on all ranks together,
    `evaluation` and `checkpoint` one of each.

    `limits[i]` says which of LIMITS a step of phase i needs the most time for; it is empty where that is not known.
    `origin` says for people where the figures are from.
    """

    start_up: float
    steps: tuple[float, ...]
    evaluation: float
    checkpoint: float
    limits: tuple[str, ...]
    origin: str

    def seconds(self, work: "Work") -> float:
        """Return the seconds that `work` takes, without the start-up."""
        steps = sum(count * seconds for count, seconds in zip(work.steps, self.steps, strict=True))
        return steps + work.evaluations * self.evaluation + work.checkpoints * self.checkpoint


# For a recipe whose precision and micro-batches are settled, and whether its steps are compiled.
Planner = Callable[[Recipe, Root, Ranks, bool], TimePlan | None]


@dataclass(frozen=True)
class Work:
    """A part of a training: so many steps of each phase, evaluations and checkpoints."""

    steps: tuple[int, ...]
    evaluations: int
    checkpoints: int


class Timetable:
    """What a command that begins after step `start` does when."""

    def __init__(self, cadence: Cadence, start: int) -> None:
        self._start, self._bounds, self._until = start, cadence.schedule.bounds, cadence.until
        self._evaluations, self._checkpoints = cadence.evaluations(start), cadence.checkpoints(start)

    def before(self, step: int) -> Work:
        """Return the work from the command's beginning to the end of what is done after `step`."""
        return Work(
            tuple(max(0, min(end, step) - max(begin, self._start)) for begin, end in self._bounds),
            bisect.bisect_right(self._evaluations, step),
            bisect.bisect_right(self._checkpoints, step),
        )

    def whole(self) -> Work:
        """Return the work of the whole command."""
        return self.before(self._until)

    def after(self, step: int) -> Work:
        """Return the work that is left once all that is due after `step` is done."""
        done, whole = self.before(step), self.whole()
        steps = tuple(all_of - so_far for so_far, all_of in zip(done.steps, whole.steps, strict=True))
        return Work(steps, whole.evaluations - done.evaluations, whole.checkpoints - done.checkpoints)
