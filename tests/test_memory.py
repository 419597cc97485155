"""Memory that malloc keeps of what was freed."""

import asyncio
import subprocess
import sys

import psutil
import pytest

from imagesprint import memory

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
    memory.keep_freed_blocks()
    memory.keep_all_freed_memory()


FAULTS = """
import resource
import numpy as np
from imagesprint.memory import keep_all_freed_memory, keep_freed_blocks
{call}
for _ in range(3):
    np.ones({size}, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones({size}, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(("call", "size"), [("keep_all_freed_memory()", 64 << 20), ("keep_freed_blocks()", 16 << 20)])
def test_the_same_block_again_costs_no_page_faults(call: str, size: int) -> None:
    script = FAULTS.format(call=call, size=size)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 100  # of 4,096 pages and more, ten times
