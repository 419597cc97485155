"""A producer thread that fills a ring of reused buffers ahead of its consumer, by a bounded number."""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

Task = TypeVar("Task")
Slot = TypeVar("Slot")
Item = TypeVar("Item")

_OWN_THREADS = "imagesprint-"  # what the names of producers and of decoding threads begin with
PRODUCER_NAME = _OWN_THREADS + "loader"


class Ring(Generic[Task, Slot, Item]):
    """Iterates over fill(task, slot) for each of `tasks`, made by a thread of its own in order.

    An item may use its slot until the next item is asked for: then the slot is filled anew. With n slots, n − 1 items
    are ready or in the making while the consumer holds one. What `tasks` or `fill` raise is raised to the consumer,
    after the items made before it; to go on after `close` is a RuntimeError, for the items are not complete then. The
    thread ends, and `release` is called on it, after the last item, an error, `close`, when the ring is garbage, and
    when the interpreter exits.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        slots: Sequence[Slot],
        fill: Callable[[Task, Slot], Item],
        release: Callable[[], object],
    ) -> None:
        self._shared: _Shared[Slot, Item] = _Shared(slots)
        # The thread knows what is shared but not the ring: else the ring could never become garbage.
        self._thread = threading.Thread(
            target=_produce, args=(self._shared, tasks, fill, release), name=PRODUCER_NAME, daemon=True
        )
        self._held: Slot | None = None
        self._complete = False  # every item was handed over
        self._pid = os.getpid()
        self._thread.start()
        self._finalizer = weakref.finalize(self, _shut_down, self._shared, self._thread, self._pid)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if os.getpid() != self._pid:
            raise RuntimeError("a loader's iteration does not survive a fork: begin it in the process that uses it")
        shared = self._shared
        if self._held is not None:
            shared.free.put(self._held)
            self._held = None
        made = None if shared.stopping else shared.ready.get()
        if made is not None and not shared.stopping:
            item, self._held = made
            return item
        self._complete |= not shared.stopping
        self.close()
        if shared.error is not None:
            raise shared.error
        if not self._complete:
            raise RuntimeError("this iteration was ended from outside: by close(), or by a second one begun since")
        raise StopIteration

    def close(self) -> None:
        """End the thread and wait for it (for one item at most); a second call does nothing."""
        self._finalizer()


class _Shared(Generic[Slot, Item]):
    """What producer and consumer share: slots to fill, and items that are ready. None wakes the one who waits, and is
    the end of the items. To stop is safe in a finalizer, whatever its thread is at: such a queue's put is reentrant, a
    lock would not be.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.free: SimpleQueue[Slot | None] = SimpleQueue()
        self.ready: SimpleQueue[tuple[Item, Slot] | None] = SimpleQueue()
        self.error: BaseException | None = None  # the producer's, set before the end of the items
        self.stopping = False
        for slot in slots:
            self.free.put(slot)


def _produce(
    shared: _Shared[Slot, Item],
    tasks: Iterable[Task],
    fill: Callable[[Task, Slot], Item],
    release: Callable[[], object],
) -> None:
    error: BaseException | None = None
    try:
        for task in tasks:
            slot = shared.free.get()
            if slot is None or shared.stopping:
                break
            shared.ready.put((fill(task, slot), slot))
    except BaseException as caught:  # whatever it is, the consumer must hear of it, or it would wait for ever
        error = caught
    finally:
        release()
        shared.error = error
        shared.ready.put(None)


def _shut_down(shared: _Shared[Slot, Item], thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child: the thread is not there
    shared.stopping = True
    shared.free.put(None)
    shared.ready.put(None)
    # The garbage collector runs on any thread; on one that the producer waits for, waiting for it would never end.
    if not threading.current_thread().name.startswith(_OWN_THREADS):
        thread.join()
