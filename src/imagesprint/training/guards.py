"""What ends a run before damage reaches a checkpoint: a loss that is no number, or beyond hope."""

import math
from collections.abc import Sequence
from typing import Final

from imagesprint.errors import RunError
from imagesprint.loading.sampler import Sampler
from imagesprint.recipes.schedule import Schedule

# A guess among C classes costs ln C, below 12 for all that has been published; nothing comes back from far above it.
EXPLODED: Final = 1000.0
_SHOWN_IDS: Final = 32


class LossGuard:
    """Finds the step that went wrong, and names its samples."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self._schedule = schedule
        self._seed = seed

    def check(self, step: int, losses: Sequence[float], penalty: float) -> None:
        """Check a window that ends after `step` steps: the `losses` of each of its steps, before weight decay.

        `penalty` is the part of weight decay after the last one, which sees the newest weights. Raises RunError for
        the first step whose loss is not finite or over EXPLODED.
        """
        first = step - len(losses) + 1
        for number, loss in enumerate(losses, first):
            if not loss <= EXPLODED:  # true for nan, too
                raise self._error(number, f"the loss is {loss:.5g}")
        if not math.isfinite(penalty):
            raise self._error(step, f"the weights are not finite any more (their L2 loss is {penalty})")

    def _error(self, step: int, what: str) -> RunError:
        ids = Sampler(self._schedule, self._seed).batch(step - 1).tolist()
        shown = ", ".join(map(str, ids[:_SHOWN_IDS])) + (", …" if len(ids) > _SHOWN_IDS else "")
        return RunError(
            f"{what} at step {step}, learning rate {self._schedule.lr(step - 1):.5g}, "
            f"{len(ids)} samples with ids {shown}",
            f"look at them: imagesprint inspect ROOT --run RUN --step {step}; or lower the learning rates "
            "(--set 'phases.*.lr=…') in a new run; the checkpoints before it are sound",
        )
