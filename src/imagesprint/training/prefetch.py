"""Copies to a GPU, one batch ahead and beside its computing, and time on a device."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType

import torch

from imagesprint.loading.batch import Batch


@dataclass(frozen=True)
class Mark:
    """A point in a device's work: a CUDA event, or the seconds of a clock where the device is the CPU."""

    event: torch.cuda.Event | None
    clock: float


class Stopwatch:
    """Sets marks on `device` without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> Mark:
        """Return a mark behind all work that was given to the device so far."""
        if self._device.type != "cuda":
            return Mark(None, time.perf_counter())
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return Mark(event, 0.0)

    def wait(self) -> None:
        """Wait until the device has done all its work: marks may be read then."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def seconds(self, start: Mark, end: Mark) -> float:
        """Return the seconds from `start` to `end`; both must have been passed."""
        if start.event is None or end.event is None:
            return end.clock - start.clock
        milliseconds: float = start.event.elapsed_time(end.event)
        return milliseconds / 1000

    def laps(self, work: Callable[[], object], count: int) -> list[float]:
        """Return the seconds that each of `count` calls of `work` takes the device, one behind the other."""
        marks = [self.mark()]
        for _ in range(count):
            work()
            marks.append(self.mark())
        self.wait()
        return [self.seconds(start, end) for start, end in itertools.pairwise(marks)]


class Waits:
    """Adds up how long a device stood still while the host was inside of `with`, without waiting for it.

    On a GPU that is the time between two marks around what the host gave it before and gives it afterwards: where the
    host came in time, nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._stopwatch = Stopwatch(device)
        self._marks: list[Mark] = []

    def __enter__(self) -> None:
        self._marks.append(self._stopwatch.mark())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._marks.append(self._stopwatch.mark())

    def take(self) -> float:
        """Return the seconds since the last call. The device must have passed all marks."""
        marks, self._marks = self._marks, []
        return sum(self._stopwatch.seconds(start, end) for start, end in zip(marks[::2], marks[1::2], strict=True))


@dataclass
class CopyTimes:
    """Seconds over all batches so far: that copying took the device, and that the host waited for copies to end."""

    copying: float = 0.0
    waited: float = 0.0


class DeviceBatches(Iterator[Batch]):
    """What `on_device` returns, and in `copies` what copying took: nothing on a CPU."""

    def __init__(self, batches: Iterator[Batch], copies: CopyTimes) -> None:
        self.copies = copies
        self._batches = batches

    def __next__(self) -> Batch:
        return next(self._batches)


def on_device(batches: Iterator[Batch], device: torch.device) -> DeviceBatches:
    """`batches` with their tensors on `device`, each valid until the next is asked for, as before.

    On a GPU they are read and copied one ahead, into two sets of tensors in turn, on a stream of their own: it waits
    until the batch before the last is done with. Before `batches` is asked for another, the host waits for the copy
    of the last to end, because its (pinned) memory is filled anew then; so the host is at most two micro-batches
    ahead of the GPU, which never waits for it.
    """
    copies = CopyTimes()
    return DeviceBatches(batches if device.type == "cpu" else _copied_ahead(batches, device, copies), copies)


_TENSORS = ("images", "labels", "sample_ids", "mask", "draws")  # of a batch


def _copied_ahead(batches: Iterator[Batch], device: torch.device, copies: CopyTimes) -> Iterator[Batch]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    begun = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    # Blocking, else a core would spin that could decode
    copied = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
    slots: list[Batch | None] = [None, None]
    previous: Batch | None = None
    for number, batch in enumerate(batches):
        copy = slots[number % 2] = _like(batch, slots[number % 2], device)
        stream.wait_stream(torch.cuda.current_stream(device))  # which has used this slot last
        begun.record(stream)
        with torch.cuda.stream(stream):
            for name in _TENSORS:
                getattr(copy, name).copy_(getattr(batch, name), non_blocking=True)
        copied.record(stream)
        if previous is not None:
            yield previous
        start = time.perf_counter()
        copied.synchronize()
        copies.waited += time.perf_counter() - start
        copies.copying += begun.elapsed_time(copied) / 1000
        previous = copy
    if previous is not None:
        yield previous


def _like(batch: Batch, slot: Batch | None, device: torch.device) -> Batch:
    """A batch on `device` with room for `batch`: `slot` where its shape fits."""
    if slot is not None and slot.images.shape == batch.images.shape:
        return replace(slot, step=batch.step)
    return Batch(step=batch.step, **{name: torch.empty_like(getattr(batch, name), device=device) for name in _TENSORS})
