"""A producer thread that fills a ring of reused buffers ahead of its consumer, by a bounded number."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """What producer and consumer share."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.error: BaseException | None = None
        self.complete = False  # the consumer had every item
        self._changed = threading.Condition()
        self._free = deque(slots)
        self._ready: deque[tuple[Item, Slot]] = deque()
        self._stopping = False
        self._finished = False

    # The producer's side

    def next_free(self) -> Slot | None:
        """Wait for a slot to fill; None when the consumer wants no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._stopping)
            return None if self._stopping else self._free.popleft()

    def put(self, item: Item, slot: Slot) -> None:
        with self._changed:
            self._ready.append((item, slot))
            self._changed.notify_all()

    def finish(self, error: BaseException | None) -> None:
        with self._changed:
            self.error = error
            self._finished = True
            self._changed.notify_all()

    # The consumer's side

    def take(self) -> tuple[Item, Slot] | None:
        """Wait for the next item; None after the last or `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._finished or self._stopping)
            if self._stopping:
                return None
            if self._ready:
                return self._ready.popleft()
            self.complete = True
            return None

    def give_back(self, slot: Slot) -> None:
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()


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
        return  # a forked child: the thread is not there, and the lock may be held for ever
    state.stop()
    # The garbage collector runs on any thread; on one that the producer waits for, waiting for it would never end.
    if not threading.current_thread().name.startswith(_OWN_THREADS):
        thread.join()
