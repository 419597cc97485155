"""The store over which the ranks of one command find each other: a file, or a server on the machine of rank 0."""

import os
from datetime import timedelta

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from imagesprint.runs.environment import STORE_VARIABLE, keeps_store

_ANSWER_SECONDS = 5.0  # for the store to answer a rank that asks it once more


def open_store(rank: int, world_size: int, timeout: float) -> Store:
    """The store that all `world_size` ranks open: returns once they have. Raises RuntimeError or ValueError.

    Rank 0 keeps it, but for `--processes` (a file) and where torchrun's agent does.
    """
    path = os.environ.get(STORE_VARIABLE)
    if path:
        return FileStore(path, world_size)
    host, port = _address()
    return TCPStore(
        host, port, world_size, is_master=rank == 0 and keeps_store(), timeout=timedelta(seconds=timeout),
        multi_tenant=True,
    )  # fmt: skip


def reopen_store(world_size: int) -> Store:
    """A connection of its own to that store, whose first one may be in use by a thread that hangs."""
    path = os.environ.get(STORE_VARIABLE)
    if path:
        return FileStore(path, world_size)
    timeout = timedelta(seconds=_ANSWER_SECONDS)
    return TCPStore(*_address(), is_master=False, timeout=timeout, wait_for_workers=False)


def _address() -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is not set") from error
