"""What the fetcher brings next, and the threads that do it.

Three kinds of work, in this order: records that somebody waits for, records that are expected, and whole shards. A
record comes by a range of its own, together with wanted neighbours where what lies between costs less than a further
request would: so where much of a shard is wanted it comes in large pieces. Some threads are kept for whole shards,
which is the quickest way to have everything: so no order of samples is slower than to download it all.
"""

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from imagesprint.errors import ImagesprintError, StorageError
from imagesprint.records.remote.client import SampleIds
from imagesprint.records.remote.shards import ABSENT, COMING, DAMAGED, THERE, UNKNOWN, CachedSplit, FullError
from imagesprint.records.remote.wants import Filling, Piece, Wants
from imagesprint.records.tfrecord import is_sound
from imagesprint.storage.cache import cache_folder

THREADS: Final = 64  # each waits for one answer of the store at a time
FILLING: Final = 8  # of them are kept for whole shards
MOST_FILLING: Final = 16  # and no more fill where nothing else is wanted: their pieces lie in memory
PIECE_BYTES: Final = 4 << 20  # at most in one request: 16 of them are 64 MB under way, 1 GB/s at a latency of 50 ms
STREAM_BYTES: Final = 256 << 20  # read ahead in memory for shards that the cache has no room for
CHECKED_TOGETHER: Final = 64  # records of what an earlier fetcher left, looked at in one go
BEAT_SECONDS: Final = 5.0  # between two signs of life to who waits
PAUSE_SECONDS: Final = 5.0  # for which nothing is fetched ahead after the store failed; who waits is served at once
_SMALL_BYTES: Final = 64 << 10  # a request of fewer takes about as long as one for a byte
_LEAST_GAP, _MOST_GAP = 16 << 10, 1 << 20  # bytes
_WEIGHT: Final = 0.1  # of the newest request in what is known of speed


@dataclass
class Counts:
    """What was fetched so far; `seconds` are those in which at least one request was under way."""

    requests: int = 0
    num_bytes: int = 0
    seconds: float = 0.0


class Downloads:
    """The work and its threads. `lock` guards all that is said of splits and wants."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts = Counts()
        self.notices: list[str] = []  # for people, by way of every client
        self._came = threading.Condition(self.lock)  # for who waits for records
        self._work_came = threading.Condition(self.lock)  # for threads without work: wakes one
        self._wants: deque[Wants] = deque()
        self._fillings: list[Filling] = []
        self._threads_filling = self._threads_fetching = 0
        self._busy_since = self._paused_until = 0.0
        self._latency, self._speed = 0.005, 50e6  # seconds, bytes a second: of one request, as measured lately
        for _ in range(THREADS):
            threading.Thread(target=self._serve, daemon=True).start()

    def add(self, wants: Wants) -> None:
        """Begin to serve."""
        with self.lock:
            self._wants.append(wants)

    def remove(self, wants: Wants) -> None:
        """No longer serve."""
        with self.lock:
            self._wants.remove(wants)
            wants.forget()
            served = [other.split for other in self._wants]
            self._fillings = [filling for filling in self._fillings if filling.split in served]

    def expect(self, wants: Wants, sample_ids: SampleIds, anew: bool) -> None:
        """Have these records come, before they are needed; `anew`: in place of those that were expected."""
        with self.lock:
            if anew:
                wants.forget()
            wants.expect(sample_ids)
            self._work_came.notify()

    def fill(self, split: CachedSplit) -> None:
        """Have all shards of the split come that are kept, after those that were to come before."""
        with self.lock:
            if all(filling.split is not split for filling in self._fillings):
                self._fillings.append(Filling(split))
            self._work_came.notify()

    def await_all(self, wants: Wants, sample_ids: SampleIds, beat: Callable[[], None]) -> dict[int, bytes]:
        """Wait until all of these records are there; return those that are not kept in the cache.

        `beat` is called every BEAT_SECONDS. Raises the error why a record cannot be had, and what `beat` raises.
        """
        with self.lock:
            wants.error, beaten = None, time.monotonic()
            try:
                while len(missing := wants.missing(sample_ids)):
                    if wants.error is not None:
                        raise wants.error
                    wants.needed, wants.awaited = deque(missing.tolist()), set(missing.tolist())
                    if (wants.split.state[missing] <= ABSENT).any():
                        self._work_came.notify()
                    self._came.wait(BEAT_SECONDS)
                    if time.monotonic() - beaten > BEAT_SECONDS:
                        beaten = time.monotonic()
                        beat()
            finally:
                wants.needed, wants.awaited = deque(), set()
            taken = wants.take(sample_ids)
            if taken:
                self._work_came.notify()  # there is room for more
            return taken

    def renew(self, split: CachedSplit, sample_id: int) -> bool:
        """Fetch a record that was found damaged once more, and put it where it lies; whether it is sound now."""
        with self.lock:
            if split.state[sample_id] == DAMAGED:  # so it is in the store
                return False
        data, is_right = _fetch(split, sample_id)
        if is_right and split.state[sample_id] == THERE:
            with suppress(FullError):  # then it stays damaged
                split.write(np.array([sample_id]), memoryview(data), split.extent(sample_id)[0])
        return is_right

    # What is next; all with the lock held.

    def _next(self) -> Piece | None:
        is_paused = time.monotonic() < self._paused_until
        if self._threads_fetching < THREADS - FILLING:
            piece = self._asked_for("needed")
            if piece is None and not is_paused and sum(wants.stash_bytes for wants in self._wants) < STREAM_BYTES:
                piece = self._asked_for("expected")
            if piece is not None:
                return piece
        if self._threads_filling < MOST_FILLING and not is_paused:
            return self._to_fill()
        return None

    def _asked_for(self, queue: str) -> Piece | None:
        """A piece of what one wants, each in turn."""
        for wants in tuple(self._wants):
            self._wants.rotate(-1)
            piece = self._first_of(wants, getattr(wants, queue))
            if piece is not None:
                return piece
        return None

    def _first_of(self, wants: Wants, queue: deque[int]) -> Piece | None:
        """A piece with the first of the queue's records that nobody is at; those before it are taken out."""
        split = wants.split
        while queue:
            sample_id = queue[0]
            state = split.state[sample_id]
            if state == UNKNOWN:
                ahead = np.unique(list(islice(queue, CHECKED_TOGETHER)))
                return Piece(split, ahead[split.state[ahead] == UNKNOWN])
            if state == ABSENT and sample_id not in wants.stash:
                return self._around(wants, sample_id)
            queue.popleft()
        return None

    def _around(self, wants: Wants, sample_id: int) -> Piece:
        """The piece with a record and what is wanted near it, as far as a request of its own would not be quicker."""
        split, half = wants.split, PIECE_BYTES // 2
        split.wanted[sample_id] = True
        first, stop = split.rows(int(split.shard[sample_id]))
        low = first + int(np.searchsorted(split.ends[first:stop], split.starts[sample_id] - half))
        high = first + int(np.searchsorted(split.starts[first:stop], split.ends[sample_id] + half))
        near = low + np.flatnonzero((split.state[low:high] == ABSENT) & split.wanted[low:high])
        here = int(np.searchsorted(near, sample_id))
        breaks = np.flatnonzero(split.starts[near[1:]] - split.ends[near[:-1]] > self._gap())
        after = int(np.searchsorted(breaks, here))
        begin = int(breaks[after - 1]) + 1 if after else 0
        end = int(breaks[after]) if after < len(breaks) else len(near) - 1
        ids = near[begin : end + 1]
        if split.kept[split.shard[sample_id]]:  # what lies between comes along
            ids = ids[0] + np.flatnonzero(split.state[ids[0] : ids[-1] + 1] == ABSENT)
        return Piece(split, ids, int(split.starts[ids[0]]), int(split.ends[ids[-1]]), wants)

    def _gap(self) -> int:
        """The bytes that come in the time that a further request would take."""
        return int(min(max(self._latency * self._speed, _LEAST_GAP), _MOST_GAP))

    def _to_fill(self) -> Piece | None:
        """The next piece of a whole shard."""
        for filling in self._fillings:
            while not filling.is_done:
                left = filling.split.left_in(filling.shard)
                if len(left):
                    return self._run(filling.split, left)
                filling.shard = filling.split.most_wanted()
                filling.is_done = filling.shard < 0
        return None

    def _run(self, split: CachedSplit, left: SampleIds) -> Piece:
        """The first of the records `left` of a shard and those behind it, up to PIECE_BYTES or a gap."""
        left = left[split.ends[left] <= max(split.starts[left[0]] + PIECE_BYTES, split.ends[left[0]])]
        unknown = split.state[left] == UNKNOWN
        if unknown[0]:
            return Piece(split, left[unknown])
        breaks = np.flatnonzero((split.starts[left[1:]] - split.ends[left[:-1]] > self._gap()) | unknown[1:])
        ids = left[: breaks[0] + 1] if len(breaks) else left
        return Piece(split, ids, int(split.starts[ids[0]]), int(split.ends[ids[-1]]))

    # The threads.

    def _serve(self) -> None:
        try:
            self._serve_on()
        except BaseException:  # a bug: without its threads this process would keep everybody waiting
            traceback.print_exc()
            os._exit(1)

    def _serve_on(self) -> None:
        while True:
            with self.lock:
                while (piece := self._next()) is None:
                    self._work_came.wait(PAUSE_SECONDS)
                piece.split.state[piece.sample_ids] = COMING
                self._work_came.notify()  # there may be more: one wakes the next, not one all
                self._count(piece, 1)
            try:
                self._carry_out(piece)
            except ImagesprintError as error:
                self._fail(piece, error)
            except Exception as error:  # its text could have a secret in it
                what = f"cannot fetch from {piece.split.store.url}: {type(error).__name__}"
                self._fail(piece, StorageError(what, "this is a bug in imagesprint: please report it"))
            with self.lock:
                self._count(piece, -1)
                self._came.notify_all()

    def _count(self, piece: Piece, change: int) -> None:
        now = time.monotonic()
        if self._threads_fetching + self._threads_filling:
            self.counts.seconds += now - self._busy_since
        self._busy_since = now
        if piece.wants is None and piece.end:
            self._threads_filling += change
        else:
            self._threads_fetching += change

    def _carry_out(self, piece: Piece) -> None:
        split, ids = piece.split, piece.sample_ids
        if not piece.end:
            found = split.found(ids)
            with self.lock:
                split.arrived(ids, np.where(found, THERE, ABSENT))
                self._fill_again(split)
            return
        began = time.monotonic()
        data = split.store.read(split.names[split.shard[ids[0]]], piece.start, piece.end - piece.start)
        self._measure(len(data), time.monotonic() - began)
        view = memoryview(data)
        extents = {sample_id: split.extent(sample_id) for sample_id in ids.tolist()}
        records = {sample_id: view[a - piece.start : b - piece.start] for sample_id, (a, b) in extents.items()}
        sound = np.array([is_sound(record) for record in records.values()])
        states = np.full(len(ids), THERE)
        for row in np.flatnonzero(~sound).tolist():  # a damaged one is kept, too: who reads it says so
            again, is_right = _fetch(split, int(ids[row]))
            records[int(ids[row])] = memoryview(again)
            states[row] = THERE if is_right else DAMAGED
        if self._keep(piece, records, view if sound.all() else None):
            with self.lock:
                split.arrived(ids, states)
        else:
            with self.lock:
                split.state[ids] = ABSENT
                if piece.wants is not None:
                    for sample_id in ids[split.wanted[ids]].tolist():
                        piece.wants.put(sample_id, bytes(records[sample_id]))

    def _keep(self, piece: Piece, records: dict[int, memoryview], whole: memoryview | None) -> bool:
        """Write records to the cache, out of the whole of the piece where all are sound; False where it has no room."""
        split, ids = piece.split, piece.sample_ids
        if not split.kept[split.shard[ids[0]]]:
            return False
        try:
            if whole is not None:
                split.write(ids, whole, piece.start)
            else:
                for sample_id, record in records.items():
                    split.write(np.array([sample_id]), record, split.extent(sample_id)[0])
        except FullError:
            with self.lock:
                self._stream_the_rest(split)
            return False
        return True

    def _stream_the_rest(self, full: CachedSplit) -> None:
        for split in {full, *(wants.split for wants in self._wants), *(filling.split for filling in self._fillings)}:
            split.stream_the_rest()
        notice = f"the disk of the cache {cache_folder()} is full: what it lacks is read from the store each time"
        if notice not in self.notices:
            self.notices.append(notice)

    def _measure(self, num_bytes: int, seconds: float) -> None:
        """Take a request into account."""
        with self.lock:
            self.counts.requests += 1
            self.counts.num_bytes += num_bytes
            if num_bytes <= _SMALL_BYTES:
                self._latency += _WEIGHT * (seconds - self._latency)
            elif seconds > self._latency:
                self._speed += _WEIGHT * (num_bytes / (seconds - self._latency) - self._speed)

    def _fail(self, piece: Piece, error: ImagesprintError) -> None:
        """Nothing came of a piece: whoever waits for records of it hears why, if it was fetched because of that."""
        with self.lock:
            piece.split.state[piece.sample_ids] = ABSENT
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            self._fill_again(piece.split)
            if piece.wants is not None:
                for wants in self._wants:
                    if wants.split is piece.split and not wants.awaited.isdisjoint(piece.sample_ids.tolist()):
                        wants.error = error
                        wants.needed = deque()  # or threads would try on until who waits gets the lock

    def _fill_again(self, split: CachedSplit) -> None:
        """Look anew whether something of a split is to be filled: records that were on their way did not come."""
        for filling in self._fillings:
            filling.is_done &= filling.split is not split


def _fetch(split: CachedSplit, sample_id: int) -> tuple[bytes, bool]:
    """A record from the store, and whether it is sound."""
    start, end = split.extent(sample_id)
    data = split.store.read(split.names[split.shard[sample_id]], start, end - start)
    return data, is_sound(memoryview(data))
