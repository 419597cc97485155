"""Which checkpoints stay on the disk."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imagesprint.errors import UsageError
from imagesprint.recipes.schedule import Schedule


@dataclass(frozen=True)
class Keep:
    """A rule: `last` so many (None: all), every `epochs` epochs (0: none for that), and the `best`.

    A checkpoint stays where any of the three wants it; the newest always does.
    """

    last: int | None = None
    epochs: int = 0
    best: bool = False

    @classmethod
    def parse(cls, text: str) -> "Keep":
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

    def dispensable(self, steps: Sequence[int], schedule: Schedule, top1: dict[int, float]) -> list[int]:
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


KEEP_ALL = Keep()
