"""The store over which the ranks of one command find each other: a file, or a server on the machine of rank 0."""

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from imagesprint.files import naming
from imagesprint.runs.environment import STORE_VARIABLE, TMPDIR_HINT, keeps_store, met_mark

Answer = TypeVar("Answer")

_ANSWER_SECONDS = 5.0


def open_store(rank: int, world_size: int, timeout: float) -> Store:
    """The store that all `world_size` ranks open: returns once they have. Raises RuntimeError or ValueError.

    Rank 0 keeps it, but for `--processes` (a file) and where torchrun's agent does.
    """
    path = os.environ.get(STORE_VARIABLE)
    if path:
        return _file_store(path, world_size)
    host, port = _address()
    return TCPStore(
        host, port, world_size, is_master=rank == 0 and keeps_store(), timeout=timedelta(seconds=timeout),
        multi_tenant=True,
    )  # fmt: skip


def ask_store(world_size: int, question: Callable[[Store], Answer]) -> Answer:
    """What `question` makes of that store, over a connection of its own: the first may be used by a thread that hangs.

    Raises RuntimeError where there is no answer within five seconds.
    """
    answers: list[Answer] = []

    def ask() -> None:
        with suppress(RuntimeError):
            answers.append(question(_reopen_store(world_size)))

    # PyTorch has no limit for a store whose process is stopped: where that is, the thread is left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    if not answers:
        raise RuntimeError(f"the ranks' store has not answered for {_ANSWER_SECONDS:g} s")
    return answers[0]


def note_met(rank: int) -> None:
    """Let the launcher of `--processes` know that this rank met the others. Raises FileError."""
    path = os.environ.get(STORE_VARIABLE)
    if path:
        mark = met_mark(path, rank)
        with naming("write", mark, TMPDIR_HINT):
            mark.touch()


def _reopen_store(world_size: int) -> Store:
    path = os.environ.get(STORE_VARIABLE)
    if path:
        return _file_store(path, world_size)
    timeout = timedelta(seconds=_ANSWER_SECONDS)
    return TCPStore(*_address(), is_master=False, timeout=timeout, wait_for_workers=False)


def _file_store(path: str, world_size: int) -> Store:
    store = FileStore(path, world_size)
    # One reference more, so that it is never taken apart: it would write to its file once more, and where that fails
    # PyTorch aborts the process, without the file's name. The launcher removes the file.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    return store


def _address() -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is not set") from error
