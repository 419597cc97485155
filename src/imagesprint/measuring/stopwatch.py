"""Time on a device: marks that lie in its own order of work, and are read once it is done."""

import time
from dataclasses import dataclass

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
