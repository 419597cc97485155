"""What malloc does with freed memory: keep it for what comes next, or give it back to the system soon.

By itself glibc's malloc does neither well. Blocks beyond 32 MB, as a batch's activations are, are given back as soon as
they are freed, and each page of the next one costs a fault. What is smaller each thread keeps for good; and once a
block of many megabytes was freed, as the body of a large photo is, it holds back twice as much at the end of its memory
(mallopt(3), M_MMAP_THRESHOLD). The first is wrong for a training, the second for a server beside others.
"""

import asyncio
import ctypes
import gc
from collections.abc import Callable
from typing import Final

SECONDS: Final = 1.0  # between looks whether there is something to give back
# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8


def keep_freed_blocks() -> None:
    """Have malloc keep up to 128 MB at its end, and freed blocks of up to 32 MB: for work on one image after another.

    To give back each image's pixels and get them anew took an eighth of the time of `prepare`.
    """
    if (mallopt := _in_libc("mallopt")) is not None:
        mallopt(_M_TRIM_THRESHOLD, 128 << 20)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def keep_all_freed_memory() -> None:
    """Have malloc give nothing back: for work that takes the same blocks, of any size, over and over.

    To judge by EfficientNet-Lite0 in batches of 64 at 160 px took 1.7 times as long without that (AMD EPYC).
    """
    if (mallopt := _in_libc("mallopt")) is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def share_freed_memory() -> None:
    """Have malloc keep what all threads free in one place.

    Of 10,000 photos of all sizes the server kept 52 MB without that, and 27 MB so.
    """
    if (mallopt := _in_libc("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


async def give_back_freed_memory(count: Callable[[], int]) -> None:
    """Have malloc give back what nobody needs, whenever `count`, of what was done, has grown; does not end by itself.

    Errors that were raised may hold the frames that they passed, and so a request's body, until garbage is collected:
    the young is, first. Returns at once without glibc.
    """
    trim = _in_libc("malloc_trim")
    seen = count()
    while trim is not None:
        await asyncio.sleep(SECONDS)
        if count() != seen:
            seen = count()
            gc.collect(1)
            await asyncio.to_thread(trim, 0)


def _in_libc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where that has none of the name."""
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
