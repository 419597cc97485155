import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from imagesprint.loading.ring import Ring

Threads = Callable[[], list[str]]


class Factory:
    """Fills slots (lists) with numbers and remembers what it did."""

    def __init__(self) -> None:
        self.made = 0
        self.released = 0

    def fill(self, work: int, slot: list[int]) -> list[int]:
        slot[:] = [work]
        self.made += 1
        return slot

    def release(self) -> None:
        self.released += 1

    def ring(self, work: Iterator[int], slots: int = 3) -> Ring[int, list[int], list[int]]:
        return Ring(work, [[] for _ in range(slots)], self.fill, self.release)


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_gives_every_item_in_order_and_ends_its_thread(own_threads: Threads) -> None:
    factory = Factory()
    assert [item[0] for item in factory.ring(iter(range(100)))] == list(range(100))
    assert factory.released == 1
    assert not own_threads()


def test_no_work(own_threads: Threads) -> None:
    factory = Factory()
    ring = factory.ring(iter(()))
    assert list(ring) == []
    assert list(ring) == []  # and it stays at its end
    assert factory.released == 1
    assert not own_threads()


def test_goes_ahead_by_a_bounded_number_and_reuses_its_slots() -> None:
    factory = Factory()
    ring = factory.ring(iter(range(50)))
    seen = set()

    def made(number: int) -> bool:
        return factory.made == number

    for taken, item in enumerate(ring):
        assert wait_for(partial(made, min(taken + 3, 50)))
        if taken % 10 == 0:
            time.sleep(0.02)
        assert factory.made <= taken + 3
        assert item == [taken]  # not overwritten while it is held
        seen.add(id(item))
    assert len(seen) == 3


@pytest.mark.parametrize("failing", ["work", "fill"])
def test_an_error_comes_after_what_was_made_before_it(failing: str, own_threads: Threads) -> None:
    factory = Factory()

    def work() -> Iterator[int]:
        yield from (0, 1)
        if failing == "work":
            raise ValueError("no more")
        yield "2"  # type: ignore[misc]

    def fill(number: int, slot: list[int]) -> list[int]:
        if number not in (0, 1):
            raise ValueError("no more")
        return factory.fill(number, slot)

    ring: Ring[int, list[int], list[int]] = Ring(work(), [[], [], []], fill, factory.release)
    assert next(ring) == [0]
    assert next(ring) == [1]
    for _ in range(2):
        with pytest.raises(ValueError, match="no more"):
            next(ring)
    assert factory.released == 1
    assert not own_threads()


def test_close_in_the_middle(own_threads: Threads) -> None:
    factory = Factory()
    ring = factory.ring(iter(range(100)))
    next(ring)
    ring.close()
    ring.close()
    assert factory.released == 1
    assert factory.made < 10
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ended from outside"):  # to end as if complete would be silent loss
            next(ring)
    assert not own_threads()


def test_close_after_the_last_item() -> None:
    ring = Factory().ring(iter(range(3)))
    assert len(list(ring)) == 3
    ring.close()
    assert list(ring) == []


def test_close_from_another_thread_wakes_the_consumer(own_threads: Threads) -> None:
    never = threading.Event()

    def work() -> Iterator[int]:
        never.wait(20)
        yield 1

    ring = Factory().ring(work())
    closer = threading.Timer(0.05, ring.close)
    closer.start()
    with pytest.raises(RuntimeError, match="ended from outside"):
        next(ring)
    never.set()
    closer.join()
    assert not own_threads()


def test_garbage_ends_the_thread(own_threads: Threads) -> None:
    factory = Factory()
    ring = factory.ring(iter(range(100)))
    next(ring)
    del ring
    assert factory.released == 1
    assert not own_threads()

    cycle: list[object] = [factory.ring(iter(range(100)))]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert factory.released == 2
    assert not own_threads()


def test_garbage_found_by_the_producer_itself_does_not_hang(own_threads: Threads) -> None:
    holder: list[Ring[int, list[int], list[int]]] = []
    begun, dropped = threading.Event(), threading.Event()

    def fill(_: int, slot: list[int]) -> list[int]:
        begun.wait(20)
        holder.clear()  # the last reference: the ring is finalised here, on its own thread
        dropped.set()
        return slot

    holder.append(Ring(iter(range(100)), [[], []], fill, list))
    begun.set()
    assert dropped.wait(20)
    assert wait_for(lambda: not own_threads())


def test_a_forked_child_is_told_and_does_not_hang() -> None:
    ring = Factory().ring(iter(range(100)))
    next(ring)
    child = os.fork()
    if child == 0:
        try:
            next(ring)
        except RuntimeError as error:
            ring.close()
            os._exit(0 if "fork" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert next(ring) == [1]
    ring.close()


def test_the_interpreter_exits_with_a_ring_in_use() -> None:
    code = (
        "from imagesprint.loading.ring import Ring\n"
        "ring = Ring(iter(range(100)), [[], []], lambda work, slot: work, lambda: print('released', flush=True))\n"
        "print(next(ring), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\nreleased\n", "")
