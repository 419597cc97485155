"""What loading an image costs one thread, and so how fast any number of threads loads."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from imagesprint.images.decoders import use_native
from imagesprint.images.decoding import Decoder, PillowDecoder
from imagesprint.loading.batch import Buffer
from imagesprint.loading.load import Load
from imagesprint.loading.loader import AHEAD, Loader
from imagesprint.loading.ring import Ring
from imagesprint.measuring.data_programs import TimedDecoder

_SECONDS: Final = 1.0  # of loading that are measured
_WARM_UP: Final = 2  # batches before


@dataclass(frozen=True)
class LoadingCost:
    """CPU seconds an image in batches of `rows`: `decoding`, with all else that native code does, which any number of
    threads share, and `serial`, which one thread does.
    """

    decoding: float
    serial: float
    rows: int

    def images_per_second(self, threads: int) -> float:
        """Return how fast `threads` threads load on as many cores that do nothing else.

        At the end of a batch they wait for the last of them, each but that one for half an image on average.
        """
        idle = (threads - 1) / 2
        return 1 / (self.serial + self.decoding / threads * (self.rows + idle) / self.rows)


def measure_loading(loader: Loader, rows: int, image_size: int) -> LoadingCost:
    """Measure the first batches of `loader`, of `rows` images each, loaded by one thread."""
    decoder = TimedDecoder() if use_native() else _TimedPillow()
    buffers = [Buffer(rows, rows * image_size**2 * 3, False) for _ in range(AHEAD + 1)]
    marks: list[tuple[float, float]] = []  # CPU seconds of this process and of the decoder before each batch

    def loads() -> Iterator[Load]:
        for load in loader.loads():
            marks.append((time.process_time(), decoder.seconds))
            if len(marks) > _WARM_UP + 1 and marks[-1][0] - marks[_WARM_UP][0] > _SECONDS:
                return
            yield load

    for _ in Ring(loads(), buffers, partial(_fill, decoder), decoder.close):
        pass
    images = (len(marks) - 1 - _WARM_UP) * rows
    total, decoding = (end - start for start, end in zip(marks[_WARM_UP], marks[-1], strict=True))
    return LoadingCost(decoding / images, max(0.0, total - decoding) / images, rows)


class _TimedPillow(PillowDecoder):
    """Adds up the CPU time of its calls, which one thread carries out."""

    def __init__(self) -> None:
        super().__init__(1)
        self.seconds = 0.0

    def decode(self, *args: Any, **kwargs: Any) -> None:
        start = time.thread_time()
        super().decode(*args, **kwargs)
        self.seconds += time.thread_time() - start


def _fill(decoder: Decoder, load: Load, buffer: Buffer) -> object:
    return buffer.fill(load, decoder)
