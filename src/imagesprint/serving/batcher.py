"""Requests become batches: whatever queued while the last batch ran is the next one; nobody waits for a fuller one.

An image passes two threads of ours: one decodes what has queued, the other runs the model on what is decoded, so the
next batch is decoded beside the model's work on this one. Endpoints know this class alone, and no runtime.
"""

import asyncio
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.console import Console
from imagesprint.errors import ImagesprintError
from imagesprint.inference.opening import OpenModel
from imagesprint.inference.prediction import Candidate, ImageReader, candidates
from imagesprint.serving.metrics import Metrics
from imagesprint.serving.refusals import BusyError, ModelError, TimedOutError, TooLargeError

MAX_BATCH: Final = 16  # images that the model takes at once
MAX_IMAGES: Final = 64  # of a request
MAX_QUEUE: Final = 256  # images taken and not answered yet
MAX_PIXELS: Final = 50_000_000  # of an image before it is decoded: phones' photos of 50 megapixels have 49.9 million
REQUEST_SECONDS: Final = 30.0  # from taking a request to its answer
_DECODED_AT_ONCE: Final = 4  # images a thread: more would keep the model waiting, fewer cost more Python
_NEWEST: Final = 0.2  # the weight of the last batch in the mean time an image takes

Logits = NDArray[np.float32]  # [C], of an image
Likeliest = tuple[Candidate, ...]  # of an image, the likeliest first
Answer = Logits | ImagesprintError


@dataclass(eq=False, slots=True)
class _Row:
    """An image on its way: a file, or pixels [H, W, 3]; how many classes are wanted, 0 for all logits; who waits."""

    encoded: bytes
    pixels: NDArray[np.uint8] | None
    top: int
    future: asyncio.Future[Any]

    def finish(self, answer: Answer | Likeliest) -> None:
        """In the event loop's thread: hand over the answer, unless there is one already, or nobody waits any more."""
        if not self.future.done():
            self.future.set_result(answer)


_Queue = SimpleQueue[_Row | None]  # None ends it


class _Pace:
    """The time that an image takes, of late."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def note(self, images: int, seconds: float) -> None:
        self.seconds += _NEWEST * (seconds / images - self.seconds)


class Batcher:
    """Answers images by `model`. Coroutines are awaited in one event loop; `close` ends the threads.

    Raises UsageError as `open_decoder` does.
    """

    def __init__(self, model: OpenModel, metrics: Metrics, console: Console) -> None:
        self._model = model
        self._metrics = metrics
        self._console = console
        threads = max(1, len(os.sched_getaffinity(0)) // 2)  # the other half is for the model and for HTTP
        self._decoded_at_once = _DECODED_AT_ONCE * threads
        self._reader = ImageReader(model.image_size, model.resize, threads, MAX_PIXELS, model.shape)
        self._arrived: _Queue = SimpleQueue()
        self._decoded: _Queue = SimpleQueue()
        self._pending = 0  # images taken and not answered; the event loop's thread alone touches it
        self._decoding, self._inferring = _Pace(), _Pace()
        self._threads = [
            Thread(target=run, name=f"imagesprint-{run.__name__.strip('_')}", daemon=True)
            for run in (self._decode, self._infer)
        ]
        for thread in self._threads:
            thread.start()
        metrics.watch_queue(lambda: self._pending)
        metrics.show_model(model)

    @property
    def model(self) -> OpenModel:
        """The model that takes the next batch."""
        return self._model

    def swap(self, model: OpenModel) -> None:
        """Have `model`, of the same classes, image size and shape, take the next batch and all after it."""
        self._model = model
        self._metrics.show_model(model)

    async def classify(self, encoded: Sequence[bytes], top: int) -> list[Likeliest | ImagesprintError]:
        """The `top` likeliest classes of each image file, or its error: a DataError, or a ModelError or TimedOutError.

        Raises TooLargeError for more than MAX_IMAGES, and BusyError where the queue is full.
        """
        return await self._answers(encoded, None, top)

    async def predict(self, encoded: Sequence[bytes]) -> list[Answer]:
        """The logits, float32 [C], of each image file, or its error. Raises as `classify`."""
        return await self._answers(encoded, None, 0)

    async def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits, float32 [N, C], of prepared images [N, S, S, 3], N ≥ 1.

        Raises as `classify`, and the error of the first image that has one.
        """
        answers: list[Answer] = await self._answers([b""] * len(pixels), pixels, 0)
        if errors := [answer for answer in answers if isinstance(answer, ImagesprintError)]:
            answers.clear()  # as in `predict_files`
            raise errors.pop(0)
        return np.stack([answer for answer in answers if not isinstance(answer, ImagesprintError)])

    def close(self) -> None:
        """End both threads, once they have done what was taken."""
        self._arrived.put(None)
        for thread in self._threads:
            thread.join()
        self._reader.close()

    def _admit(self, count: int) -> None:
        """Raise the error of a request of `count` images that has no room."""
        if count > MAX_IMAGES:
            raise TooLargeError(f"a request of {count} images", f"send at most {MAX_IMAGES} at once")
        wait = self._pending * max(self._decoding.seconds, self._inferring.seconds)
        if self._pending and (self._pending + count > MAX_QUEUE or wait > REQUEST_SECONDS):
            seconds = max(1, math.ceil(wait))
            raise BusyError(f"{self._pending} images wait for their turn", f"try again in {seconds} s", seconds)

    async def _answers(self, encoded: Sequence[bytes], pixels: NDArray[np.uint8] | None, top: int) -> list[Any]:
        self._admit(len(encoded))
        loop = asyncio.get_running_loop()
        rows = [
            _Row(file, None if pixels is None else pixels[number], top, loop.create_future())
            for number, file in enumerate(encoded)
        ]
        self._pending += len(rows)
        queue = self._arrived if pixels is None else self._decoded
        for row in rows:
            queue.put(row)
        late = loop.call_later(REQUEST_SECONDS, _give_up, rows)
        try:
            return [await row.future for row in rows]
        finally:
            late.cancel()

    def _decode(self) -> None:
        """The thread that decodes."""
        while rows := _take(self._arrived, self._decoded_at_once):
            is_last = rows[-1] is None
            self._decode_rows(self._awaited(rows))
            rows.clear()  # so that nobody's image is held while this waits for the next one
            if is_last:
                self._decoded.put(None)
                return

    def _decode_rows(self, rows: list[_Row]) -> None:
        if not rows:
            return
        begun = time.perf_counter()
        try:
            pixels, failures = self._reader.decode([row.encoded for row in rows])
        except Exception as error:  # no memory, or a bug: one image is to blame, at most
            if len(rows) > 1:
                for row in rows:
                    self._decode_rows([row])
            else:
                self._console.warn(f"decoding an image failed: {_reason(error)}")
                self._deliver(rows, [ModelError("the image could not be decoded", "the server's log says more")])
            return
        seconds = time.perf_counter() - begun
        self._metrics.decoded(seconds)
        self._decoding.note(len(rows), seconds)
        for number, row in enumerate(rows):
            if number not in failures:
                row.pixels = pixels[number]
                self._decoded.put(row)
        if failures:
            self._deliver([rows[number] for number in failures], list(failures.values()))

    def _infer(self) -> None:
        """The thread that runs the model."""
        while rows := _take(self._decoded, MAX_BATCH):
            is_last = rows[-1] is None
            self._infer_rows(self._awaited(rows))
            rows.clear()
            if is_last:
                return

    def _infer_rows(self, rows: list[_Row]) -> None:
        if not rows:
            return
        begun = time.perf_counter()
        answers = self._run(self._model, rows)
        seconds = time.perf_counter() - begun
        self._metrics.inferred(len(rows), seconds)
        self._inferring.note(len(rows), seconds)
        self._deliver(rows, answers)

    def _run(self, model: OpenModel, rows: Sequence[_Row]) -> list[Answer | Likeliest]:
        """The answer of each image. Where the model fails on a batch, each image is tried alone."""
        pixels = [row.pixels for row in rows if row.pixels is not None]
        try:
            return _read(model, model.infer(pixels), rows)
        except Exception as error:  # whatever a runtime raises
            if len(rows) > 1:
                return [answer for row in rows for answer in self._run(model, [row])]
            self._console.warn(f"{model.runtime} failed on an image: {_reason(error)}")
            return [ModelError("the model failed on this image", "the server's log says more")]

    def _awaited(self, rows: Sequence[_Row | None]) -> list[_Row]:
        """The rows that somebody still waits for; the others are done with."""
        kept: list[_Row] = []
        dropped: list[_Row] = []
        for row in rows:
            if row is not None:
                (dropped if row.future.done() else kept).append(row)
        if dropped:
            self._deliver(dropped, [TimedOutError("nobody waits for it")] * len(dropped))
        return kept

    def _deliver(self, rows: Sequence[_Row], answers: Sequence[Answer | Likeliest]) -> None:
        """Hand answers over to the event loop, which is woken once for all of them."""

        def finish() -> None:
            self._pending -= len(rows)
            for row, answer in zip(rows, answers, strict=True):
                row.finish(answer)

        with suppress(RuntimeError):  # the event loop has ended: nobody is left to answer
            rows[0].future.get_loop().call_soon_threadsafe(finish)


def _give_up(rows: Sequence[_Row]) -> None:
    """Answer the rows that have waited too long; threads then pass over them."""
    for row in rows:
        row.finish(TimedOutError(f"no answer within {REQUEST_SECONDS:.0f} s", "send fewer requests at once", 1))


def _read(model: OpenModel, logits: NDArray[np.float32], rows: Sequence[_Row]) -> list[Answer | Likeliest]:
    """What `logits`, [N, C], say of each row, as it asked."""
    is_finite = np.isfinite(logits)
    top = max(row.top for row in rows)
    found = candidates(np.nan_to_num(logits), model, top) if top else []
    answers: list[Answer | Likeliest] = []
    for number, row in enumerate(rows):
        if not is_finite[number].all():
            answers.append(ModelError(f"{model.checkpoint} gives no numbers for this image", "use another"))
        else:
            answers.append(found[number][: row.top] if row.top else logits[number])
    return answers


def _take(queue: _Queue, most: int) -> list[_Row | None]:
    """What is in the queue, at most `most`; waits only while there is nothing. None is the last of all."""
    rows = [queue.get()]
    with suppress(Empty):
        while len(rows) < most and rows[-1] is not None:
            rows.append(queue.get_nowait())
    return rows


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
