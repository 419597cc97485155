"""What loading an image costs, and so how fast any number of threads loads."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final, Self

from imagesprint.loading.loader import AHEAD, Loader

_SECONDS: Final = 1.0  # of loading that are measured with each number of threads
_ROUNDS: Final = 3  # in which they take turns
_WARM_UP: Final = 2 * (AHEAD + 1)  # batches before: each buffer was used twice


@dataclass(frozen=True)
class LoadingCost:
    """Seconds an image: `decoding`, which any number of threads share, and `serial`, which they cannot."""

    decoding: float
    serial: float

    @classmethod
    def fitted(cls, alone: float, together: float, threads: int) -> Self:
        """Return the cost where an image takes one thread `alone` seconds, and `threads` threads `together`."""
        decoding = (alone - together) * threads / (threads - 1)
        decoding = min(alone, max(0.0, decoding))
        return cls(decoding, alone - decoding)

    def images_per_second(self, threads: int) -> float:
        """Return how fast `threads` threads load on as many cores that do nothing else."""
        return 1 / (self.serial + self.decoding / threads)


def measure_loading(open_loader: Callable[[int], Loader], threads: int) -> LoadingCost:
    """Measure the loader that `open_loader` opens for a number of threads, with one thread and with `threads`, at least
    two. It has to have more batches than can be loaded in a second.

    The two speeds fix the two costs. So what threads lose by waiting for one another, and cores by sharing caches and
    memory, is counted as serial.
    """
    many = max(2, threads)
    taken: dict[int, list[float]] = {1: [], many: []}
    for _ in range(_ROUNDS):
        for count, seconds in taken.items():
            with open_loader(count) as loader:
                seconds.append(_seconds_an_image(loader))
    return LoadingCost.fitted(median(taken[1]), median(taken[many]), many)


def _seconds_an_image(loader: Loader) -> float:
    images, batches = 0, iter(loader)
    for _ in range(_WARM_UP):
        next(batches)
    began = now = time.perf_counter()
    while now - began < _SECONDS / _ROUNDS:
        images += len(next(batches).labels)
        now = time.perf_counter()
    return (now - began) / images
