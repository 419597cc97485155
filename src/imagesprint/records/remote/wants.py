"""What is wanted of the fetcher, and the pieces of work that it comes to."""

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from imagesprint.errors import ImagesprintError
from imagesprint.records.remote.client import SampleIds
from imagesprint.records.remote.shards import THERE, CachedSplit


@dataclass(eq=False)
class Wants:
    """What one Dataset wants of a split: `needed` now, `expected` in this order. `stash` has the records that are not
    kept in the cache, until they were asked for as often as they are `due`: a window may reach into the next epoch.
    """

    split: CachedSplit
    needed: deque[int] = field(default_factory=deque)
    awaited: set[int] = field(default_factory=set)  # all of the records that are needed, also those on their way
    expected: deque[int] = field(default_factory=deque)
    due: Counter[int] = field(default_factory=Counter)
    stash: dict[int, bytes] = field(default_factory=dict)
    stash_bytes: int = 0
    error: ImagesprintError | None = None

    def missing(self, sample_ids: SampleIds) -> SampleIds:
        """Those of the records that can neither be read in the cache nor lie in the stash."""
        missing = sample_ids[self.split.state[sample_ids] < THERE]
        return missing if not self.stash else np.array([i for i in missing.tolist() if i not in self.stash], np.int64)

    def expect(self, sample_ids: SampleIds) -> None:
        """Expect these records after the others."""
        self.expected.extend(sample_ids.tolist())
        self.due.update(sample_ids.tolist())
        self.split.wanted[sample_ids] = True

    def put(self, sample_id: int, record: bytes) -> None:
        """Put a record into the stash."""
        self.stash_bytes += len(record) - len(self.stash.get(sample_id, b""))
        self.stash[sample_id] = record
        self.split.wanted[sample_id] = False

    def take(self, sample_ids: SampleIds) -> dict[int, bytes]:
        """Return those of the records that lie in the stash; they leave it unless they are expected once more."""
        taken = {i: self.stash[i] for i in sample_ids.tolist() if i in self.stash}
        self.due.subtract(sample_ids.tolist())
        for sample_id in sample_ids.tolist():
            if self.due[sample_id] <= 0:
                del self.due[sample_id]
                self.stash_bytes -= len(self.stash.pop(sample_id, b""))
        return taken

    def forget(self) -> None:
        """Want nothing any more."""
        self.split.wanted[list(self.expected)] = False
        self.expected.clear()
        self.due.clear()
        self.stash.clear()
        self.stash_bytes = 0


@dataclass(frozen=True, eq=False)
class Piece:
    """Work for a thread: records of a split, in order. They lie at bytes `start` to `end` of one shard in the store,
    which may also hold others; or, where `end` is 0, perhaps in the cache, where they are looked for.

    `wants` is whose stash they go to where their shard is not kept; None: they were not asked for.
    """

    split: CachedSplit
    sample_ids: SampleIds
    start: int = 0
    end: int = 0
    wants: Wants | None = None


@dataclass(eq=False)
class Filling:
    """A split whose kept shards are all to come: `shard` is the one at which it is, −1 where none is left."""

    split: CachedSplit
    shard: int = -1
    is_done: bool = False
