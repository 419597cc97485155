"""Checkpoints written while training goes on: copied to the host, whole or not at all, and which of them stay."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from imagesprint.checkpoints.weight_files import save_sealed
from imagesprint.errors import RunError, UsageError
from imagesprint.files import system_error, write_atomically
from imagesprint.recipes.schedule import Schedule


@dataclass(frozen=True)
class Keep:
    """A rule: `last` so many (None: all), every `epochs` epochs (0: none for that), and the `best`.

    A checkpoint stays where any of the three wants it; the newest always does.
    """

    last: int | None = None
    epochs: int = 0
    best: bool = False

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """The rule of `all`, `last:N`, `epochs:K`, `best`, or several of the last three with commas between.

        Raises UsageError for another text.
        """
        if text == "all":
            return cls()
        numbers = {"last": 1, "epochs": 0}
        for word in text.split(","):
            match = re.fullmatch(r"(last|epochs):([1-9][0-9]*)", word)
            if match is None and word != "best":
                raise UsageError(f"--keep {text}: {word!r} is no rule", "all, last:3, epochs:10, best, or last:3,best")
            if match is not None:
                numbers[match[1]] = int(match[2])
        return cls(numbers["last"], numbers["epochs"], "best" in text.split(","))

    def dispensable(self, steps: Sequence[int], schedule: Schedule, top1: dict[int, float]) -> list[int]:
        """Those of the ascending `steps` with a checkpoint that need not stay; `top1` holds what was evaluated."""
        if self.last is None:
            return []
        kept = set(steps[-self.last :])
        judged = [step for step in steps if step in top1]
        if self.best and judged:
            kept.add(max(judged, key=lambda step: (top1[step], step)))
        if self.epochs:
            kept.update(
                step
                for step in steps
                if schedule.is_epoch_start(step) and schedule.epochs_done(step) % self.epochs == 0
            )
        return [step for step in steps if step not in kept]

    def count(self, steps: int, epochs: float) -> int:
        """How many of `steps` checkpoints stay at most, over `epochs` epochs."""
        if self.last is None:
            return steps
        return min(steps, self.last + self.best + (int(epochs // self.epochs) if self.epochs else 0))


KEEP_ALL = Keep()


_Kind = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Snapshot:
    """Host memory for one checkpoint, used again for the next: fresh memory takes many times longer to fill.

    `expected` are tensors of the sizes that the first one will have; memory for others is added as they come. On a GPU
    it is pinned, and the copies run on a stream of their own.
    """

    def __init__(self, expected: Iterable[Tensor], device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._free: dict[_Kind, list[Tensor]] = defaultdict(list)
        for tensor in expected:
            self._free[_kind(tensor)].append(self._buffer(tensor).zero_())

    @torch.no_grad()
    def take(self, content: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
        """Copy `content`, in which the tensors may change after this returns.

        Returns the copy, valid until the next one is taken, and a function that waits until it is complete.
        """
        used: list[Tensor] = []

        def copy(tensor: Tensor) -> Tensor:
            free = self._free[_kind(tensor)]
            used.append(free.pop() if free else self._buffer(tensor))
            return used[-1].copy_(tensor.detach(), non_blocking=True)

        if self._stream is None:
            copied, wait = torch.utils._pytree.tree_map_only(Tensor, copy, content), _nothing
        else:
            current = torch.cuda.current_stream(self._stream.device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                copied = torch.utils._pytree.tree_map_only(Tensor, copy, content)
                wait = self._stream.record_event().synchronize
            current.wait_stream(self._stream)  # the next step must not overtake it; the host goes on at once
        for buffer in used:
            self._free[_kind(buffer)].append(buffer)
        return copied, wait

    def _buffer(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, device="cpu", pin_memory=self._stream is not None, requires_grad=False)


def _kind(tensor: Tensor) -> _Kind:
    return tensor.shape, tensor.stride(), tensor.dtype


def _nothing() -> None:
    pass


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run / "checkpoints" / f"step-{step:07d}.pt"


def write_checkpoint(run: Path, content: dict[str, Any]) -> Path:
    """Write `content` (see `training.state`), sealed, atomically under its step; returns the path.

    Raises RunError where it cannot be written (a full disk, say); the checkpoints before it are untouched.
    """
    path = checkpoint_path(run, content["step"])
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: save_sealed(content, file))
    except (OSError, RuntimeError) as error:  # torch.save comes to a RuntimeError after the system's
        system = system_error(error)
        raise RunError(
            f"cannot write checkpoint {path}: {error if system is None else system.strerror}",
            "see to its disk, space and permissions, then run the same command again: it resumes",
        ) from error
    return path


@dataclass(frozen=True)
class Written:
    """A checkpoint at its place: `waited` is how long training waited for it, `seconds` how long writing took."""

    path: Path
    waited: float
    seconds: float


class CheckpointWriter:
    """Writes the checkpoints of `run` in a thread of its own, one at a time; the next one waits for it.

    `done` is called, in the thread that calls this object, for each one that is written. An error in writing is raised
    by the next call. Leaving the context waits for all that is under way.
    """

    def __init__(self, run: Path, snapshot: Snapshot, done: Callable[[Written], None]) -> None:
        self._run, self._snapshot, self._done = run, snapshot, done
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Written] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._thread.shutdown()

    def save(self, content: dict[str, Any]) -> None:
        """Begin to write `content` under its step; its tensors may change when this returns. Raises RunError."""
        begun = time.perf_counter()
        self.finish()
        copy, wait = self._snapshot.take(content)
        waited = time.perf_counter() - begun

        def write() -> Written:
            start = time.perf_counter()
            wait()
            path = write_checkpoint(self._run, copy)
            return Written(path, waited, time.perf_counter() - start)

        self._writing = self._thread.submit(write)

    def meanwhile(self, work: Callable[[], None]) -> None:
        """Have the same thread do `work`, which raises nothing, before it writes the next one."""
        self._thread.submit(work)

    def look(self) -> None:
        """Raise RunError at once where the one in flight has failed."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the one in flight, if any, is written. Raises RunError where that failed."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._done(writing.result())
