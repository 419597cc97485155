"""Time on a device: marks that lie in its own order of work, and are read once it is done."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch


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
