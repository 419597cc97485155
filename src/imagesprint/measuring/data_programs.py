"""What `bench data` measures of our own: the whole loader, its decoder alone, the floor, and where the time goes."""

import time
from collections.abc import Mapping
from functools import partial

import numpy as np

from imagesprint.errors import DataError
from imagesprint.images.decoders import open_decoder, use_portable
from imagesprint.images.decoding import STAGES
from imagesprint.images.native_batches import Batch, NativeDecoder, Outcome, Records
from imagesprint.images.native_images import entropy_seconds, read_info
from imagesprint.loading.batch import Buffer
from imagesprint.loading.load import Load
from imagesprint.loading.loader import AHEAD
from imagesprint.loading.ring import Ring
from imagesprint.measuring.contest import Pass
from imagesprint.measuring.data_work import Work


def whole_loader(work: Work) -> Pass:
    """Return a pass of the loader, from the shards to the batches, that drops what it gets."""
    loader = work.loader()

    def run() -> None:
        for _ in loader:
            pass

    return run


def decoder_alone(work: Work) -> Pass:
    """Return a pass of the loader's decoder over images in memory, always into the same buffer."""
    batches, decoder = work.batches(), open_decoder(work.threads)
    out = np.empty((work.batch_size, work.image_size, work.image_size, 3), np.uint8)

    def run() -> None:
        for batch in batches:
            decoder.decode(batch.encoded, batch.crops, batch.flips, True, out)

    return run


def entropy_alone(work: Work) -> Pass:
    """Return a pass of entropy decoding alone: seconds an image of the "whole" image and of its "rows" down to the
    crop's last one. Raises DataError where no image is a JPEG that libjpeg decodes.
    """
    images = [
        (data, bottom)
        for batch in work.batches().held[: work.steps]
        for data, bottom in zip(batch.encoded, batch.crops[:, 3].tolist(), strict=True)
        if read_info(data) is not None
    ]
    if not images:
        raise DataError("no image is a JPEG that libjpeg decodes")

    def run() -> Mapping[str, float]:
        taken = [(entropy_seconds(data), entropy_seconds(data, rows)) for data, rows in images]
        whole, rows = np.mean(taken, axis=0).tolist()
        return {"whole": whole, "rows": rows}

    return run


def timed_loader(work: Work) -> Pass:
    """Return a pass of the native loader with one thread and a clock inside it: seconds of each of STAGES, of all
    "native" code, and "python", the CPU time of everything else.
    """
    loader = work.loader()

    def run() -> Mapping[str, float]:
        decoder = TimedDecoder()
        buffers = [Buffer(work.batch_size, work.batch_size * work.image_size**2 * 3, False) for _ in range(AHEAD + 1)]
        start = time.process_time()
        for _ in Ring(loader.loads(), buffers, partial(_fill, decoder), decoder.close):
            pass
        python = time.process_time() - start - decoder.seconds
        stages = dict(zip(STAGES, (decoder.stages * 1e-9).tolist(), strict=True))
        return {**stages, "native": decoder.seconds, "python": python}

    return run


class TimedDecoder(NativeDecoder):
    """Adds up the CPU time of its calls, which one thread carries out."""

    def __init__(self) -> None:
        super().__init__(1, use_portable())
        self.seconds = 0.0

    def load(self, records: Records, batch: Batch) -> Outcome:
        start = time.thread_time()
        outcome = super().load(records, batch)
        self.seconds += time.thread_time() - start
        return outcome


def _fill(decoder: NativeDecoder, load: Load, buffer: Buffer) -> object:
    return buffer.fill(load, decoder)
