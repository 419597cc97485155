"""Checkpoints are written here, while training goes on: copied to the host, then by a thread, whole or not at all."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, cast

import torch
from torch import Tensor

from imagesprint.checkpoints.format import CheckpointContent
from imagesprint.checkpoints.naming import checkpoint_path
from imagesprint.checkpoints.weight_files import NO_COMMENT, PREFIX, SEALED
from imagesprint.console import Console
from imagesprint.errors import RunError
from imagesprint.files import system_error, write_atomically

_Content = TypeVar("_Content")
_Kind = tuple[torch.Size, tuple[int, ...], torch.dtype]


def write_checkpoint(run: Path, content: CheckpointContent) -> Path:
    """Write `content`, sealed, atomically under its step; returns the path.

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


def save_sealed(content: CheckpointContent, file: BinaryIO) -> None:
    """torch.save `content` into the empty `file` and seal it (`weight_files`)."""
    hashing = _Hashing(file)
    torch.save(content, cast(BinaryIO, hashing))
    file.seek(-len(NO_COMMENT), 2)
    file.write(SEALED + PREFIX + hashing.hash.hexdigest().encode())


class _Hashing:
    """A file to write to that hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


class CheckpointWriter:
    """Writes the checkpoints of `run` in a thread of its own, one at a time; the next one waits for it.

    `like` are tensors as a checkpoint holds them, all on one device. When one is written the log of `console` is told,
    and the files that `surplus` names are removed. An error in writing is raised by the next call. Leaving the context
    waits for all that is under way.
    """

    def __init__(
        self, run: Path, like: Sequence[Tensor], console: Console, surplus: Callable[[], Iterable[Path]] = tuple
    ) -> None:
        self._run, self._console, self._surplus = run, console, surplus
        self._snapshot = Snapshot(like, like[0].device)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[tuple[Path, float]] | None = None
        self.waited = 0.0  # seconds that training waited for the one saved last
        self._seconds = 0.0  # that writing took

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._thread.shutdown()

    def save(self, content: CheckpointContent) -> None:
        """Begin to write `content` under its step; its tensors may change when this returns. Raises RunError."""
        begun = time.perf_counter()
        self.finish()
        copy, wait = self._snapshot.take(content)
        self.waited = time.perf_counter() - begun

        def write() -> tuple[Path, float]:
            start = time.perf_counter()
            wait()
            return write_checkpoint(self._run, copy), time.perf_counter() - start

        self._writing = self._thread.submit(write)

    def look(self) -> None:
        """Raise RunError at once where the one in flight has failed."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the one in flight, if any, is written. Raises RunError where that failed."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        path, seconds = writing.result()
        self._seconds += seconds
        waited = f"training waited {1e3 * self.waited:.1f} ms"
        self._console.note(f"checkpoint  {path.name}: {waited}, written in {seconds:.2f} s")
        self._thread.submit(self._remove, list(self._surplus()))

    def take_seconds(self) -> float:
        """The seconds that writing took, beside the training, of those that were whole since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _remove(self, paths: Iterable[Path]) -> None:
        """In the thread: to give back its blocks takes a large file some time."""
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._console.warn(f"{path} cannot be removed: {error.strerror}")


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
    def take(self, content: _Content) -> tuple[_Content, Callable[[], None]]:
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
