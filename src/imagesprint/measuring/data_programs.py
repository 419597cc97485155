"""What `bench data` measures of our own: the whole loader, its decoder alone, the floor, and where the time goes."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from imagesprint.errors import DataError
from imagesprint.images.decoders import open_decoder, use_portable
from imagesprint.images.decoding import STAGES
from imagesprint.images.native_batches import CropRequest, NativeDecoder, Outcome, Records
from imagesprint.images.native_images import entropy_seconds, own_entropy_seconds, read_info
from imagesprint.images.native_library import Encoded
from imagesprint.loading.batch import Buffer
from imagesprint.loading.load import Load
from imagesprint.loading.loader import AHEAD
from imagesprint.loading.ring import Ring
from imagesprint.measuring.contest import Pass
from imagesprint.measuring.data_work import HELD_IMAGES, HeldBatch, Work

LEAD: Final = AHEAD + 1  # batches that fill the loader's buffers for the first time
TIMED_BATCHES: Final = 16  # among which the time is spread that a pass takes to begin: 2 ms, as 2 or 3 batches take


def whole_loader(work: Work) -> Pass:
    """Return a pass of the loader, from the shards to the batches, that drops what it gets."""
    loader = work.loader()

    def run() -> None:
        for _ in loader:
            pass

    return run


def running_loader(work: Work) -> Pass:
    """Return a pass of the loader that begins with LEAD batches, which fill its buffers for the first time and do not
    count: the "seconds" and "cpu_seconds" of those of `work` behind them.
    """
    loader = replace(work, steps=LEAD + work.steps).loader()

    def run() -> Mapping[str, float]:
        batches = iter(loader)
        for _ in itertools.islice(batches, LEAD):
            pass
        return _clocked(lambda: deque(batches, maxlen=0))

    return run


def decoder_alone(work: Work) -> Pass:
    """Return a pass of the loader's decoder over the images of `running_loader`, which are in memory, always into the
    same buffer. It returns the same figures.
    """
    batches, decode = _held(work), _decoding(work)
    return lambda: _clocked(lambda: [decode(batch) for batch in batches])


def _clocked(act: Callable[[], object]) -> dict[str, float]:
    start, cpu_start = time.perf_counter(), time.process_time()
    act()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}


def _held(work: Work) -> list[HeldBatch]:
    """The batches behind the first LEAD, in memory; at most HELD_IMAGES images with those."""
    return replace(work, steps=LEAD + work.steps).batches().held[LEAD:]


def _decoding(work: Work) -> Callable[[HeldBatch], object]:
    decoder = open_decoder(work.threads)
    out = np.empty((work.batch_size, work.image_size, work.image_size, 3), np.uint8)
    return lambda batch: decoder.decode(batch.encoded, batch.crops, batch.flips, True, out)


def beside_entropy(work: Work) -> Pass:
    """Return a pass of the decoder and of entropy decoding alone, in turns batch by batch: CPU seconds of the
    "decoder"; of libjpeg's entropy decoding of the "whole" images, and of their "rows" down to the crop's last one; and
    of those by what the decoder has for it, our "own". Each pass has the next batches of those that can be held, for
    the rows depend on the crops. Raises DataError where no image is a JPEG that libjpeg decodes.
    """
    held, decode = replace(work, steps=max(work.steps, HELD_IMAGES // work.batch_size)).batches().held, _decoding(work)
    if not any(read_info(data) is not None for batch in held for data in batch.encoded):
        raise DataError("no image is a JPEG that libjpeg decodes")
    batches = itertools.cycle(held)

    def run() -> Mapping[str, float]:
        taken = {"decoder": 0.0, "whole": 0.0, "rows": 0.0, "own": 0.0}
        for batch in itertools.islice(batches, work.steps):
            taken["decoder"] += _clocked(partial(decode, batch))["cpu_seconds"]
            images = zip(batch.encoded, batch.crops[:, 3].tolist(), strict=True)
            jpegs = [(data, bottom) for data, bottom in images if read_info(data) is not None]
            # One after the other over the whole batch: no image is in the cache because it was just decoded.
            taken["whole"] += sum(entropy_seconds(data) for data, _ in jpegs)
            taken["rows"] += sum(entropy_seconds(data, bottom) for data, bottom in jpegs)
            taken["own"] += sum(_decoders_entropy_seconds(data, bottom) for data, bottom in jpegs)
        return taken

    return run


def _decoders_entropy_seconds(data: Encoded, rows: int) -> float:
    own = None if use_portable() else own_entropy_seconds(data, rows)
    return entropy_seconds(data, rows) if own is None else own


def timed_loader(work: Work) -> Pass:
    """Return a pass of the native loader with one thread and a clock inside it: seconds an image of each of STAGES and
    of "python", the CPU time of all that is not native code, over TIMED_BATCHES or more.
    """
    work = replace(work, steps=max(work.steps, TIMED_BATCHES))
    loader = work.loader()

    def run() -> Mapping[str, float]:
        decoder = TimedDecoder()
        buffers = [Buffer(work.batch_size, work.batch_size * work.image_size**2 * 3, False) for _ in range(AHEAD + 1)]
        start = time.process_time()
        for _ in Ring(loader.loads(), buffers, partial(_fill, decoder), decoder.close):
            pass
        python = time.process_time() - start - decoder.seconds
        stages = dict(zip(STAGES, (decoder.stages * 1e-9 / work.images).tolist(), strict=True))
        return {**stages, "python": python / work.images}

    return run


class TimedDecoder(NativeDecoder):
    """Adds up the CPU time of its calls, which one thread carries out."""

    def __init__(self) -> None:
        super().__init__(1, use_portable())
        self.seconds = 0.0

    def load(self, records: Records, batch: CropRequest) -> Outcome:
        start = time.thread_time()
        outcome = super().load(records, batch)
        self.seconds += time.thread_time() - start
        return outcome


def _fill(decoder: NativeDecoder, load: Load, buffer: Buffer) -> object:
    return buffer.fill(load, decoder)
