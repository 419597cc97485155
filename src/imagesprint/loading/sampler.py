"""Which records each micro-batch holds: a function of (seed, epoch, number of images) alone."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.images.draws import permutations
from imagesprint.recipes.schedule import Schedule

DRAWN_TOGETHER: Final = 4096  # samples: 0.1 ms for each 256 of them, which drawn alone take 0.6 (AMD EPYC)


class Sampler:
    """The order of the samples under `schedule`: batch i of epoch e is the i-th slice of the epoch's permutation."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self._schedule = schedule
        self._seed = seed
        self._epochs = range(0)
        self._orders: NDArray[np.int64] = np.empty((0, 0), np.int64)

    def micro_batch(self, step: int, index: int) -> NDArray[np.int64]:
        """The sample ids, int64[M], of micro-batch `index` of `step`. IndexError where there is no such one."""
        order, start = self._place(step, index)
        return order[start : start + self._schedule.phase(step).micro_batch]

    def batch(self, step: int) -> NDArray[np.int64]:
        """The sample ids, int64[N], of all micro-batches of `step`. IndexError where there is no such step."""
        order, start = self._place(step, 0)
        return order[start : start + self._schedule.phase(step).batch_size]

    def following(self, step: int, index: int, row: int) -> Iterator[int]:
        """The sample ids behind `row` of that micro-batch in the epoch's order, and from its start again, each once."""
        order, start = self._place(step, index)
        for place in range(start + row + 1, start + row + len(order)):
            yield int(order[place % len(order)])

    def _place(self, step: int, index: int) -> tuple[NDArray[np.int64], int]:
        """The order of the step's epoch, and where in it the micro-batch begins."""
        position, phase = self._schedule.position(step), self._schedule.phase(step)
        if not 0 <= index < phase.micro_batches:
            raise IndexError(f"micro-batch {index} of {phase.micro_batches}")
        if position.epoch not in self._epochs:
            together = max(1, DRAWN_TOGETHER // self._schedule.num_train)
            self._epochs = range(position.epoch, position.epoch + together)
            self._orders = permutations(self._schedule.num_train, self._seed, self._epochs)
        order = self._orders[position.epoch - self._epochs.start]
        return order, position.batch * position.batch_size + index * phase.micro_batch
