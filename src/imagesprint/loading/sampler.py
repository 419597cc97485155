"""Which records each micro-batch holds: a function of (seed, epoch, number of images) alone."""

import numpy as np
from numpy.typing import NDArray

from imagesprint.images.draws import permutation
from imagesprint.recipes.schedule import Schedule


class Sampler:
    """The order of the samples under `schedule`: batch i of epoch e is the i-th slice of the epoch's permutation."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self._schedule = schedule
        self._seed = seed
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def micro_batch(self, step: int, index: int) -> NDArray[np.int64]:
        """The sample ids, int64[M], of micro-batch `index` of `step`. IndexError where there is no such one."""
        position, phase = self._schedule.position(step), self._schedule.phase(step)
        if not 0 <= index < phase.micro_batches:
            raise IndexError(f"micro-batch {index} of {phase.micro_batches}")
        if position.epoch != self._epoch:
            self._order = permutation(self._schedule.num_train, self._seed, position.epoch)
            self._epoch = position.epoch
        start = position.batch * position.batch_size + index * phase.micro_batch
        return self._order[start : start + phase.micro_batch]
