"""Which checkpoints of a run stay (`--keep`), and whether they fit on its disk."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagesprint.checkpoints.naming import list_checkpoints, step_of
from imagesprint.errors import UsageError
from imagesprint.files import naming
from imagesprint.recipes.schedule import Schedule

_GIB: Final = 1 << 30


@dataclass(frozen=True)
class Retention:
    """A rule: `last` so many (None: all), every `epochs` epochs (0: none for that), and the `best`.

    A checkpoint stays where any of the three wants it; the newest always does.
    """

    last: int | None = None
    epochs: int = 0
    best: bool = False

    @classmethod
    def parse(cls, text: str) -> "Retention":
        """The rule of `all`, `last:N`, `epochs:K`, `best`, or several of the last three with commas between.

        Raises UsageError for another text.
        """
        if text == "all":
            return cls()
        numbers = {"last": 1, "epochs": 0}
        for word in text.split(","):
            match = re.fullmatch(r"(last|epochs):([1-9][0-9]*)", word)
            if match is None and word != "best":
                raise UsageError(f"--keep {text}: {word!r} is no rule", "all, last:3, epochs:10, best, or last:3,best")
            if match is not None:
                numbers[match[1]] = int(match[2])
        return cls(numbers["last"], numbers["epochs"], "best" in text.split(","))

    def surplus(self, run: Path, schedule: Schedule, top1: Callable[[], Mapping[int, float]]) -> list[Path]:
        """The checkpoints of `run` that need not stay; `top1` is asked for what was evaluated, where that matters."""
        files = {step_of(file): file for file in list_checkpoints(run)}
        return [files[step] for step in self.dispensable(list(files), schedule, top1() if self.best else {})]

    def dispensable(self, steps: Sequence[int], schedule: Schedule, top1: Mapping[int, float]) -> list[int]:
        """Those of the ascending `steps` with a checkpoint that need not stay; `top1` holds what was evaluated."""
        if self.last is None:
            return []
        kept = set(steps[-self.last :])
        judged = [step for step in steps if step in top1]
        if self.best and judged:
            kept.add(max(judged, key=lambda step: (top1[step], step)))
        if self.epochs:
            kept.update(
                step
                for step in steps
                if schedule.is_epoch_start(step) and schedule.epochs_done(step) % self.epochs == 0
            )
        return [step for step in steps if step not in kept]

    def count(self, steps: int, epochs: float) -> int:
        """How many of `steps` checkpoints stay at most, over `epochs` epochs."""
        if self.last is None:
            return steps
        return min(steps, self.last + self.best + (int(epochs // self.epochs) if self.epochs else 0))

    def check_space(self, run: Path, checkpoint_bytes: int, due: int, epochs: float) -> None:
        """Raise UsageError where what stays of `due` more checkpoints does not fit on the disk of `run`.

        `epochs` is how many are done in the end. One more checkpoint is needed while the next is written and the
        oldest is still there.
        """
        with naming("read", run):
            free = shutil.disk_usage(run).free
        there = len(list_checkpoints(run))
        more = max(1, self.count(there + due, epochs) - there)
        needed = (more + 1) * checkpoint_bytes
        if due and needed > free:
            raise UsageError(
                f"{run} has {free / _GIB:.2f} GiB left, but {more:,} checkpoints of {checkpoint_bytes / _GIB:.2f} GiB "
                f"(and one in the making) take {needed / _GIB:.2f} GiB",
                "free some space, or keep fewer: --keep last:3,best",
            )


KEEP_ALL: Final = Retention()
