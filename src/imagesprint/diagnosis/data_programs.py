"""What `bench data` compares: our loader whole and in parts, Pillow, and what every loader has to do.

Other people's loaders are in benchmarks/loaders.py: they are given the same work.
"""

import io
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.diagnosis.contest import Pass
from imagesprint.errors import DataError
from imagesprint.images.decoders import NativeDecoder, open_decoder, use_portable
from imagesprint.images.decoding import STAGES, DecodeRequest
from imagesprint.images.native import Encoded, entropy_seconds, own_entropy_seconds, read_info
from imagesprint.loading.batch import Buffer, read_encoded
from imagesprint.loading.loader import AHEAD, Loader
from imagesprint.loading.ring import Ring
from imagesprint.loading.sampling import BatchSpec
from imagesprint.records.dataset import open_dataset
from imagesprint.storage.url import Place

LoadImage = Callable[[Encoded, list[int], bool, int], NDArray[np.uint8]]  # image, box, flip, size

HELD_IMAGES: Final = 2048  # that each program has in memory: about 230 MB of ImageNet
LEAD: Final = AHEAD + 1  # batches that fill the loader's buffers for the first time
TIMED_BATCHES: Final = 16  # among which the time is spread that a pass takes to begin: 2 ms, as 2 or 3 batches take


@dataclass(frozen=True)
class HeldBatch:
    """A batch in memory, before decoding: its images, where to crop them and which to mirror (see `Decoder`)."""

    encoded: list[Encoded]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]


@dataclass(frozen=True)
class LoadingWork:
    """`steps` batches of the training images of one variant: random-resized crops, mirrored at random, antialiased."""

    root: Place
    variant: str
    image_size: int
    batch_size: int
    steps: int
    threads: int

    @property
    def images(self) -> int:
        """Return how many images the batches have together."""
        return self.steps * self.batch_size

    def loader(self) -> Loader:
        """Return the loader of these batches."""
        dataset = open_dataset(self.root, self.variant, "train")
        return Loader(dataset, BatchSpec(self.image_size, self.batch_size, steps=self.steps), threads=self.threads)

    def batches(self) -> "Batches":
        """Return the batches, read into memory."""
        return Batches(self)


class Batches:
    """The batches of `work` in memory, begun again from the first after HELD_IMAGES images.

    Who reads from here pays neither for reading nor for checksums.
    """

    def __init__(self, work: LoadingWork) -> None:
        self._work = work
        images: dict[int, Encoded] = {}  # each one once, however often it comes
        self.held = []
        for load in itertools.islice(work.loader().loads(), -(-HELD_IMAGES // work.batch_size)):
            ids = load.sample_ids.tolist()
            images.update({i: read_encoded(load.dataset, i) for i in ids if i not in images})
            self.held.append(HeldBatch([images[i] for i in ids], load.crops, load.flips))

    def __iter__(self) -> Iterator[HeldBatch]:
        return itertools.islice(itertools.cycle(self.held), self._work.steps)


def in_data_loader(work: LoadingWork, load: LoadImage) -> Pass:
    """Return a pass of torch's DataLoader whose images `load` makes: with as many processes as `work` has threads, with
    one in this process.
    """
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    batches = work.batches()

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return work.images

        def __getitem__(self, index: int) -> Any:
            number, row = divmod(index, work.batch_size)
            batch = batches.held[number % len(batches.held)]
            box = batch.crops[row].tolist()
            return torch.from_numpy(load(batch.encoded[row], box, bool(batch.flips[row]), work.image_size))

    if work.threads == 1:
        loader = DataLoader(Images(), work.batch_size)
    else:  # fork: the images are shared, not copied
        loader = DataLoader(
            Images(),
            work.batch_size,
            num_workers=work.threads,
            persistent_workers=True,
            multiprocessing_context="fork",
        )

    def run() -> None:
        for _ in loader:
            pass

    return run


def pillow(work: LoadingWork) -> Pass:
    """Return a pass of Pillow in torch's DataLoader, on images in memory, with our crops and flips."""
    from PIL import Image

    def load(data: Encoded, box: list[int], flip: bool, size: int) -> NDArray[np.uint8]:
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else Image.open(io.BytesIO(data)).convert("RGB")
        image = image.crop((box[0], box[1], box[2], box[3])).resize((size, size), Image.Resampling.BILINEAR)
        return np.array(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)

    return in_data_loader(work, load)


def whole_loader(work: LoadingWork) -> Pass:
    """Return a pass of the loader, from the shards to the batches, that drops what it gets."""
    loader = work.loader()

    def run() -> None:
        for _ in loader:
            pass

    return run


def running_loader(work: LoadingWork) -> Pass:
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


def decoder_alone(work: LoadingWork) -> Pass:
    """Return a pass of the loader's decoder over the images of `running_loader`, which are in memory, always into the
    same buffer. It returns the same figures.
    """
    batches, decode = replace(work, steps=LEAD + work.steps).batches().held[LEAD:], _decoding(work)
    return lambda: _clocked(lambda: [decode(batch) for batch in batches])


def _clocked(act: Callable[[], object]) -> dict[str, float]:
    start, cpu_start = time.perf_counter(), time.process_time()
    act()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}


def _decoding(work: LoadingWork) -> Callable[[HeldBatch], object]:
    decoder = open_decoder(work.threads)
    out = np.empty((work.batch_size, work.image_size, work.image_size, 3), np.uint8)

    def decode(batch: HeldBatch) -> None:
        for error in decoder.load(DecodeRequest(batch.encoded, batch.crops, batch.flips, True, out)).values():
            raise error

    return decode


def beside_entropy(work: LoadingWork) -> Pass:
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


def timed_loader(work: LoadingWork) -> Pass:
    """Return a pass of the native loader with one thread and a clock inside it: seconds an image of each of STAGES and
    of "python", the CPU time of all that is not native code, and for how long a store was waited for ("storage"), over
    TIMED_BATCHES or more.
    """
    work = replace(work, steps=max(work.steps, TIMED_BATCHES))
    loader = work.loader()

    def run() -> Mapping[str, float]:
        decoder = TimedDecoder()
        buffers = [
            Buffer(work.batch_size, work.batch_size * work.image_size**2 * 3, 0, False) for _ in range(AHEAD + 1)
        ]
        start, storage = time.process_time(), 0.0
        for filled in Ring(loader.loads(), buffers, lambda load, buffer: buffer.fill(load, decoder), decoder.close):
            storage += filled.storage
        python = time.process_time() - start - decoder.seconds
        stages = dict(zip(STAGES, (decoder.stages * 1e-9 / work.images).tolist(), strict=True))
        return {**stages, "python": python / work.images, "storage": storage / work.images}

    return run


class TimedDecoder(NativeDecoder):
    """Adds up the CPU time of its calls, which one thread carries out."""

    def __init__(self) -> None:
        super().__init__(1, use_portable())
        self.seconds = 0.0

    def load(self, request: DecodeRequest) -> dict[int, DataError]:
        start = time.thread_time()
        failures = super().load(request)
        self.seconds += time.thread_time() - start
        return failures
