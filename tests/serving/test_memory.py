"""Memory that malloc keeps of what was freed."""

import asyncio

import psutil
import pytest

from imagesprint.serving import memory

BLOCK, BLOCKS = 100_000, 1_000  # bytes of one, too few for a mapping of its own


def test_freed_memory_goes_back_once_something_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SECONDS", 0.02)
    process, done = psutil.Process(), 0

    async def look() -> tuple[int, int]:
        """The resident memory while nothing is done, and afterwards."""
        nonlocal done
        giving_back = asyncio.create_task(memory.give_back_freed_memory(lambda: done))
        await asyncio.sleep(0.2)
        before = after = process.memory_info().rss
        done = 1
        for _ in range(500):
            await asyncio.sleep(0.02)
            after = process.memory_info().rss
            if before - after > BLOCK * BLOCKS / 2:
                break
        giving_back.cancel()
        return before, after

    blocks = [bytes(BLOCK) for _ in range(BLOCKS)]
    left = blocks[::50]  # so that malloc cannot shorten its memory from the end
    full = process.memory_info().rss
    del blocks
    before, after = asyncio.run(look())
    assert before > full - BLOCK * BLOCKS / 2
    assert before - after > BLOCK * BLOCKS / 2
    assert len(left) == BLOCKS / 50


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_in_libc", lambda _: None)
    memory.share_freed_memory()
    asyncio.run(memory.give_back_freed_memory(lambda: 0))
