"""A thread that waits for what the stores' clients do in the background, one a process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

Answer = TypeVar("Answer")
Entry = TypeVar("Entry")
_TAKEN: Final = 1000  # entries of a list handed over at once

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run(call: Coroutine[Any, Any, Answer], seconds: float | None = None) -> Answer:
    """Return what `call` does in that thread; other threads of Python go on. Raises TimeoutError after `seconds`."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="stores", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, seconds), _loop).result()


async def take(entries: AsyncIterator[Entry]) -> list[Entry]:
    """The next thousand of `entries`, which need not begin anew for those that follow; none at the end."""
    taken = []
    async for entry in entries:
        taken.append(entry)
        if len(taken) == _TAKEN:
            break
    return taken
