"""What loading an image costs, and so how fast any number of threads loads."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final, Self

from imagesprint.images.decoders import open_decoder
from imagesprint.images.decoding import Decoder
from imagesprint.loading.batch import Buffer
from imagesprint.loading.load import Load
from imagesprint.loading.loader import AHEAD, Loader
from imagesprint.loading.ring import Ring

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


def measure_loading(loader: Loader, rows: int, image_size: int, threads: int) -> LoadingCost:
    """Measure the first batches of `loader`, of `rows` images each, with one thread and with `threads`, at least two.

    The two speeds fix the two costs. So what threads lose by waiting for one another, and cores by sharing caches and
    memory, is counted as serial.
    """
    many = max(2, threads)
    taken: dict[int, list[float]] = {1: [], many: []}
    for _ in range(_ROUNDS):
        for count, seconds in taken.items():
            seconds.append(_seconds(loader, rows, image_size, count))
    return LoadingCost.fitted(median(taken[1]), median(taken[many]), many)


def _seconds(loader: Loader, rows: int, image_size: int, threads: int) -> float:
    """The seconds of an image in a round with `threads` threads."""
    decoder = open_decoder(threads)
    buffers = [Buffer(rows, rows * image_size**2 * 3, False) for _ in range(AHEAD + 1)]
    begun: list[float] = []  # when each batch was

    def loads() -> Iterator[Load]:
        for load in loader.loads():
            begun.append(time.perf_counter())
            if len(begun) > _WARM_UP + 1 and begun[-1] - begun[_WARM_UP] > _SECONDS / _ROUNDS:
                return
            yield load

    for _ in Ring(loads(), buffers, partial(_fill, decoder), decoder.close):
        pass
    return (begun[-1] - begun[_WARM_UP]) / (len(begun) - 1 - _WARM_UP) / rows


def _fill(decoder: Decoder, load: Load, buffer: Buffer) -> object:
    return buffer.fill(load, decoder)
