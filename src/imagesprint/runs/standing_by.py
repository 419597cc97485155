"""Ranks that are too many to share a recipe's micro-batches: which they are, and how they learn of the end.

Rank 0 decides how many take part, the first so many do. The others wait, without working, until it says in the store
how they ended, or until torchrun's agent ends them because nodes came or went.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

from torch.distributed import Store  # type: ignore[attr-defined]

from imagesprint.errors import ImagesprintError, LostRankError, RunError, StoppedError
from imagesprint.runs.signals import StopSignals, exit_code
from imagesprint.runs.store import ask_store

_SIZE: Final = "taking part"  # keys in the store
_ENDED: Final = "ended"
_HEARD: Final = "heard/"
_POLL_SECONDS = 1.0  # between two looks into the store
_SILENCE_SECONDS = 10.0  # after which it counts as gone, as for ranks that cannot agree on a step (`runs.rank_watch`)
_HEARD_SECONDS = 10.0  # for those that stand by to look; rank 0 may keep the store


def agree_on_size(store: Store, rank: int, started: int, fitting: Callable[[int], int]) -> int:
    """How many of the `started` ranks that opened `store` take part: on every rank what rank 0 finds `fitting`."""
    if rank == 0:
        store.set(_SIZE, str(fitting(started)))
    return int(store.get(_SIZE))


@contextmanager
def end_told(store: Store, standing_by: range) -> Iterator[None]:
    """Tell the ranks `standing_by` the exit code with which what is done meanwhile ends; on rank 0."""
    code = 1
    try:
        yield
        code = 0
    except ImagesprintError as error:
        code = error.exit_code
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        with suppress(RuntimeError):  # they are gone, or will find out that this rank is
            store.set(_ENDED, str(code))
            store.wait([f"{_HEARD}{rank}" for rank in standing_by], timedelta(seconds=_HEARD_SECONDS))


def await_end(rank: int, started: int) -> None:
    """On a rank that stands by: returns once the others have ended well.

    Raises StoppedError where they, or this rank, were stopped by a signal; RunError with their exit code where they
    failed; LostRankError where nothing is heard of them any more.
    """
    answered = time.monotonic()
    with StopSignals() as signals:
        while not signals.number:
            with suppress(RuntimeError):
                code = ask_store(started, lambda store: _look(store, rank))
                if code is not None:
                    return _end_likewise(code)
                answered = time.monotonic()
            if time.monotonic() - answered > _SILENCE_SECONDS:
                raise LostRankError(
                    f"rank {rank} stood by and lost contact with rank 0", "run the same command again to resume"
                )
            time.sleep(_POLL_SECONDS)
    return _end_likewise(exit_code(signals.number))


def _look(store: Store, rank: int) -> int | None:
    """The exit code of the others, whom it tells that this rank has heard it; None while they are at work."""
    if not store.check([_ENDED]):
        return None
    code = int(store.get(_ENDED))
    store.set(f"{_HEARD}{rank}", "")
    return code


def _end_likewise(code: int) -> None:
    if code == 0:
        return
    kind = StoppedError if code > 128 else RunError
    error = kind(f"the other ranks ended with exit code {code}", "the message of rank 0 says why")
    error.exit_code = code
    raise error
