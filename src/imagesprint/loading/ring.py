"""A producer thread that fills a ring of reused buffers ahead of its consumer, by a bounded number."""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

Work = TypeVar("Work")
Slot = TypeVar("Slot")
Item = TypeVar("Item")

_OWN_THREADS = "imagesprint-"  # what the names of producers and of decoding threads begin with
PRODUCER_NAME = _OWN_THREADS + "loader"


class Ring(Generic[Work, Slot, Item]):
    """Iterates over fill(work, slot) for each of `work`, made by a thread of its own in order.

    An item may use its slot until the next item is asked for: then the slot is filled anew. With n slots, n − 1 items
    are ready or in the making while the consumer holds one. What `work` or `fill` raise is raised to the consumer,
    after the items made before it; to go on after `close` is a RuntimeError, for the items are not complete then. The
    thread ends, and `release` is called on it, after the last item, an error, `close`, when the ring is garbage, and
    when the interpreter exits.
    """

    def __init__(
        self,
        work: Iterable[Work],
        slots: Sequence[Slot],
        fill: Callable[[Work, Slot], Item],
        release: Callable[[], object],
    ) -> None:
        self._state: _State[Slot, Item] = _State(slots)
        # The thread knows the state but not the ring: else the ring could never become garbage.
        self._thread = threading.Thread(
            target=_produce, args=(self._state, work, fill, release), name=PRODUCER_NAME, daemon=True
        )
        self._held: Slot | None = None
        self._pid = os.getpid()
        self._thread.start()
        self._finalizer = weakref.finalize(self, _shut_down, self._state, self._thread, self._pid)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if os.getpid() != self._pid:
            raise RuntimeError("a loader's iteration does not survive a fork: begin it in the process that uses it")
        if self._held is not None:
            self._state.give_back(self._held)
            self._held = None
        made = self._state.take()
        if made is None:
            self.close()
            if self._state.error is not None:
                raise self._state.error
            if not self._state.complete:
                raise RuntimeError("this iteration was ended from outside: by close(), or by a second one begun since")
            raise StopIteration
        item, self._held = made
        return item

    def close(self) -> None:
        """End the thread and wait for it (for one item at most); a second call does nothing."""
        self._finalizer()


class _State(Generic[Slot, Item]):
    """What producer and consumer share. `stop` is safe in a finalizer, whatever its thread is at: such a queue's put is
    reentrant, a lock would not be.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.error: BaseException | None = None
        self.complete = False  # the consumer had every item
        self._free: SimpleQueue[Slot | None] = SimpleQueue()  # None wakes the one who waits
        self._ready: SimpleQueue[tuple[Item, Slot] | None] = SimpleQueue()
        self._stopping = False
        for slot in slots:
            self._free.put(slot)

    # The producer's side

    def next_free(self) -> Slot | None:
        """Wait for a slot to fill; None when the consumer wants no more."""
        slot = self._free.get()
        return None if self._stopping else slot

    def put(self, item: Item, slot: Slot) -> None:
        self._ready.put((item, slot))

    def finish(self, error: BaseException | None) -> None:
        self.error = error
        self._ready.put(None)

    # The consumer's side

    def take(self) -> tuple[Item, Slot] | None:
        """Wait for the next item; None after the last or `stop`."""
        made = None if self._stopping else self._ready.get()
        if self._stopping:
            return None
        self.complete = made is None
        return made

    def give_back(self, slot: Slot) -> None:
        self._free.put(slot)

    def stop(self) -> None:
        self._stopping = True
        self._free.put(None)
        self._ready.put(None)


def _produce(
    state: _State[Slot, Item],
    work: Iterable[Work],
    fill: Callable[[Work, Slot], Item],
    release: Callable[[], object],
) -> None:
    error: BaseException | None = None
    try:
        for each in work:
            slot = state.next_free()
            if slot is None:
                break
            state.put(fill(each, slot), slot)
    except BaseException as caught:  # whatever it is, the consumer must hear of it, or it would wait for ever
        error = caught
    finally:
        release()
        state.finish(error)


def _shut_down(state: _State[Slot, Item], thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child: the thread is not there
    state.stop()
    # The garbage collector runs on any thread; on one that the producer waits for, waiting for it would never end.
    if not threading.current_thread().name.startswith(_OWN_THREADS):
        thread.join()
