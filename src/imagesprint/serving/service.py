"""What is served: a model that is opened while the port answers already, and newer checkpoints that take over from it.

Endpoints know this class: `batcher` answers images, `model` says what answers.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeVar

import numpy as np

from imagesprint.checkpoints.cached import last_of, last_version
from imagesprint.console import Console
from imagesprint.errors import CheckpointError, StorageError, UsageError
from imagesprint.inference.image_files import sample_images
from imagesprint.inference.opening import OpenModel, open_model
from imagesprint.inference.prediction import ImageReader
from imagesprint.serving.batcher import MAX_BATCH, Batcher
from imagesprint.serving.metrics import Metrics
from imagesprint.serving.refusals import LoadingError
from imagesprint.storage.url import Place

WATCH_SECONDS: Final = 1.0  # between looks for a newer checkpoint
STORE_WATCH_SECONDS: Final = 10.0  # the same, in a store, which may ask money for each
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Wanted:
    """What is to be served, as `open_model` takes it."""

    place: Place
    runtime: str
    device: str
    int8: bool


class Service:
    """A model on its way to being served, and served."""

    def __init__(self, wanted: Wanted, console: Console) -> None:
        self.metrics = Metrics()
        self._wanted = wanted
        self._console = console
        self._batcher: Batcher | None = None
        self._opened = 0.0  # when the model was, in seconds since 1970
        self._version: tuple[Place, str] | None = None  # of the checkpoint that was opened, or looked at, last

    @property
    def batcher(self) -> Batcher:
        """What answers images. Raises LoadingError as long as the model is not opened."""
        if self._batcher is None:
            raise LoadingError(f"{self._wanted.place} is being loaded", "GET /ready tells when it is there", 1)
        return self._batcher

    @property
    def model(self) -> OpenModel:
        """The model that takes the next batch. Raises LoadingError as `batcher` does."""
        return self.batcher.model

    @property
    def is_ready(self) -> bool:
        """Whether the model is opened."""
        return self._batcher is not None

    def summary(self) -> dict[str, str | int]:
        """What is served, in short, for JSON. Raises LoadingError."""
        model = self.model
        return {
            "model": model.name,
            "num_classes": len(model.classes),
            "step": model.step,
            "image_size": model.image_size,
            "runtime": model.runtime,
            "precision": model.precision,
        }

    def describe(self) -> dict[str, Any]:
        """What is served, for JSON: `formats.describe`, the file and what runs it, and since when: a checkpoint may be
        written anew under its name. Raises LoadingError.
        """
        model = self.model
        return {
            **model.description,
            "checkpoint": str(model.checkpoint),
            "runtime": model.runtime,
            "precision": model.precision,
            "opened": self._opened,
        }

    async def open(self) -> None:
        """Open the model. Raises as `open_model` and `tried` do."""
        self._version = await _in_thread(partial(last_version, self._wanted.place))  # before: it may be written anew
        model = await _in_thread(partial(self._open, self._wanted.place))
        self._batcher, self._opened = Batcher(model, self.metrics, self._console), time.time()

    async def watch(self) -> None:
        """Have each newer checkpoint of the run take over, between two batches, once it was tried; never returns.

        So does the last one where it is written anew, as with `recalibrate_bn` at an early end. One that cannot be used
        is warned of, and the model before it stays.
        """
        told = ""
        pause = WATCH_SECONDS if isinstance(self._wanted.place, Path) else STORE_WATCH_SECONDS
        while True:
            await asyncio.sleep(pause)
            version, newest = self._version, self._wanted.place
            try:
                version = await _in_thread(partial(last_version, self._wanted.place))
                if version == self._version:
                    continue
                newest, _ = version
                model = await _in_thread(partial(self._open, newest))
                _check_alike(self.model, model)
            except StorageError as error:  # which may pass: the next look tries it again
                trouble = error.what
            except Exception as error:  # whatever a library raises of a file
                self._version, trouble = version, f"{newest} is not served: {error}"
            else:
                self._version, self._opened, trouble = version, time.time(), ""
                self.batcher.swap(model)
                self._console.line(f"serving     {newest}, after step {model.step:,}")
            if trouble not in ("", told):
                self._console.warn(f"{trouble}; {self.model.checkpoint} is served on")
            told = trouble

    def _open(self, place: Place) -> OpenModel:
        wanted = self._wanted
        return tried(open_model(place, wanted.runtime, wanted.device, self._console, int8=wanted.int8))


def check_watched(place: Place) -> None:
    """Raise UsageError where `place` has no newer checkpoints to watch for, because it is a file, or holds none."""
    if last_of(place) == place:
        raise UsageError(f"--watch is about the checkpoints of a run, and {place} is one file", "name its run")


def tried(model: OpenModel) -> OpenModel:
    """The model itself, after it answered sample images, one and a whole batch, as it is going to be asked.

    Raises CheckpointError where it gives no numbers, and whatever its runtime does.
    """
    with ImageReader(model.image_size, model.resize, 1, shape=model.shape) as reader:
        pixels, _ = reader.decode(sample_images())
    for images in (pixels[:1], list(islice(cycle(pixels), MAX_BATCH))):
        if not np.isfinite(model.infer(images)).all():
            raise CheckpointError(f"{model.checkpoint} gives no numbers for a sample image", "use another checkpoint")
    return model


def _check_alike(old: OpenModel, new: OpenModel) -> None:
    """Raise CheckpointError where `new` cannot take over what was decoded, and is understood, for `old`."""
    if any(getattr(old, name) != getattr(new, name) for name in ("classes", "image_size", "resize", "shape")):
        raise CheckpointError("it has other classes, or another image size or shape", "serve it anew")


async def _in_thread(work: Callable[[], _Result]) -> _Result:
    """What `work` returns or raises, done in a thread for which the end of the process does not wait."""
    done: Future[_Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="imagesprint-open", daemon=True).start()
    return await asyncio.wrap_future(done)
