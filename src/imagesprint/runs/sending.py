"""What of a run's folder on this machine goes to its URL and in which order, and what comes from there first.

The order is such that whoever reads the URL meanwhile finds a run: recipe.toml and commands.jsonl come first, then
checkpoints, the newest before older ones, for it is what another machine goes on from; then the rest. The rows of the
steps before a checkpoint come before it: nobody will write them again once it is gone on from. A row of
evaluations.jsonl waits for its own checkpoint, result.json for all. A file is there whole or not at all.

evaluations.jsonl is the one file that others, `evaluate`, add to meanwhile. So it is read, what is new is added, and it
is written in place of what was read, again where that has changed by then. Rows of others are added here, too.

No torch: this runs in a process of its own, `mirror_process.py`.
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from imagesprint.errors import RunError, StorageError, UsageError
from imagesprint.files import append_lines, naming, remove, whole_lines, write_atomically
from imagesprint.storage.mirror import read_present
from imagesprint.storage.store import Store, Stored

RECIPE: Final = "recipe.toml"
COMMANDS: Final = "commands.jsonl"
EVALUATIONS: Final = "evaluations.jsonl"
RESULT: Final = "result.json"
METRICS: Final = "metrics.jsonl"
CHECKPOINTS: Final = "checkpoints/"
TENSORBOARD: Final = "tensorboard/"
LEASE: Final = ".lease"  # the folder of files by which one `train` at a time writes a run (`storage/lease.py`)
KEPT_FILE: Final = ".was-sent"  # in the copy: something of it has been at the URL
_ROWS: Final = (RECIPE, COMMANDS, EVALUATIONS, RESULT, METRICS, "log.txt")
_CHECKPOINT: Final = re.compile(r"checkpoints/step-(\d+)\.pt")
_DAMAGED: Final = ".damaged"
_TAIL: Final = 4096  # bytes at a checkpoint's end, where its seal and directory lie: they tell its content
_TRIES: Final = 20  # for a file that others change meanwhile
_DOWNLOADS: Final = 8  # small files at a time

_Stamp = tuple[int, int, int]  # bytes, time of the last change in ns, inode


def is_hidden(key: str) -> bool:
    """Whether a key is no file of a run: a lease, a lock, what is not written to its end."""
    return any(part.startswith(".") for part in key.split("/"))


def is_log(key: str) -> bool:
    """Whether a key is one of the files that training reads when it goes on."""
    return key in _ROWS or key.startswith(TENSORBOARD)


def is_small(key: str) -> bool:
    """Whether a key is one of the files that tell what a run came to."""
    return is_log(key) or key.startswith("evaluated/")


def step_of(key: str) -> int | None:
    """The steps of a checkpoint by its key; None for any other file."""
    found = _CHECKPOINT.fullmatch(key)
    return int(found[1]) if found else None


def merge_lines(store: Store, key: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Write what `change` makes of the lines of a file in a store, and again if others change it meanwhile.

    Raises StorageError, also where that never comes to an end.
    """
    for _ in range(_TRIES):
        seen = store.stat(key)
        there = whole_lines(read_present(store, key) or b"")
        lines = change(list(there))
        if lines == there:
            return
        data = b"".join(line + b"\n" for line in lines)
        if store.create(key, data) if seen is None else store.replace(key, data, seen):
            return
        time.sleep(random.uniform(0, 0.5))
    raise StorageError(f"cannot write {store.url / key}: others change it all the time", "give the command again")


class Sender:
    """Sends the folder at `folder` to `store`, file by file. Methods raise StorageError; each may be called again."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._there: dict[str, _Stamp] = {}  # what is at the URL as it is here
        self._sizes: dict[str, int] = {}  # and the bytes it has there
        self._surplus: set[str] = set()  # to be deleted there
        self._rewound: int | None = None  # the step behind which no row at the URL counts any more
        self._is_stale = False  # TensorBoard's files at the URL may be those from before they were made anew
        self._next = 0  # the step of the checkpoint that is sent, or was last
        self.checkpoints: set[str] = set()  # keys of those at the URL

    def look(self) -> None:
        """See which checkpoints are at the URL, and whether they are those that lie here."""
        listed = {stored.key: stored for stored in self._store.list() if step_of(stored.key) is not None}
        self.checkpoints = set(listed)
        for key, stored in listed.items():
            stamp = self._stamp(key)
            if stamp is not None and self._is_same(key, stored):
                self._note(key, stamp, stored.num_bytes)

    def fetch(self, key: str) -> None:
        """Bring a checkpoint from the URL."""
        path = self._folder / key
        with naming("write", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._store.download(key, path)
        stamp = self._stamp(key)
        assert stamp is not None
        self._note(key, stamp, stamp[0])

    def begin(self, step: int) -> None:
        """Take it that the run goes on from `step`: of the steps behind it nothing counts any more that is there."""
        self._rewound, self._is_stale = step, True
        self._there.pop(EVALUATIONS, None)
        # At once: later it would drop what an evaluator says of this command's own checkpoints.
        with suppress(StorageError):  # then with the first rows that are sent
            merge_lines(self._store, EVALUATIONS, self._still_counting)
            self._rewound = None

    def forget(self, keys: Iterable[str]) -> None:
        """Have these deleted at the URL, once what came after them is there."""
        self._surplus |= {*keys}

    def pending(self) -> list[str]:
        """What is not at the URL as it is here, in the order in which it is to be sent."""
        stamps = {key: self._stamp(key) for key in self._keys()}
        return sorted((key for key, stamp in stamps.items() if stamp and self._there.get(key) != stamp), key=_urgency)

    def size(self, keys: Iterable[str]) -> int:
        """The bytes of these files."""
        return sum(stamp[0] for stamp in map(self._stamp, keys) if stamp)

    def send(self, key: str) -> None:
        """Send one of `pending`, before a checkpoint new rows; nothing happens where it was removed meanwhile."""
        path, stamp = self._folder / key, self._stamp(key)
        if stamp is None:
            return
        step = step_of(key)
        if step is not None:
            self._next = step
            for rows in (METRICS, EVALUATIONS):
                if self._there.get(rows) != self._stamp(rows):
                    self.send(rows)
        try:
            if key == EVALUATIONS:
                self._send_evaluations()
                return
            if key.startswith(CHECKPOINTS):
                self._store.upload(path, key)
                size = stamp[0]
            else:
                with naming("read", path):
                    data = path.read_bytes()
                data = data[: data.rfind(b"\n") + 1] if key.endswith(".jsonl") else data
                self._store.write(key, data)
                size = len(data)
        except OSError:
            if self._stamp(key) is None:  # `--keep` has removed it
                return
            raise
        self._note(key, stamp, size)

    def delete_surplus(self) -> None:
        """Delete at the URL what is to go there and may."""
        if self._is_stale:
            there = [
                f"{TENSORBOARD}{stored.key}" for stored in self._store.list("tensorboard") if "/" not in stored.key
            ]
            self._surplus |= {key for key in there if not (self._folder / key).exists()}
            self._is_stale = False
        newest = max((step_of(key) or 0 for key in self.checkpoints), default=0)
        damaged = {key.removesuffix(_DAMAGED) for key in self._there if key.endswith(_DAMAGED)} & self.checkpoints
        for key in sorted(self._surplus | damaged):
            step = step_of(key)
            if (self._folder / key).exists():
                continue  # it was written again, or will be removed here in a moment
            if key in damaged or step is None or step < newest:
                self._store.delete(key)  # also one that never came: it may have, without our hearing of it
                self._surplus.discard(key)
                self.checkpoints.discard(key)

    def verify(self) -> None:
        """Look whether all that was sent is still there; what is not is `pending` again."""
        sizes = {stored.key: stored.num_bytes for stored in self._store.list()}
        for key, size in list(self._sizes.items()):
            if key in self._there and (key not in sizes or (key != EVALUATIONS and sizes[key] != size)):
                del self._there[key]

    def _send_evaluations(self) -> None:
        path = self._folder / EVALUATIONS
        stamp, held_back = self._stamp(EVALUATIONS), False

        def merged(there: list[bytes]) -> list[bytes]:
            nonlocal stamp, held_back
            there = self._still_counting(there)
            with naming("read", path):
                own = whole_lines(path.read_bytes())
            others = [line for line in there if line not in own]
            if others:
                append_lines(path, others)
            stamp = self._stamp(EVALUATIONS)
            new = [line for line in own if line not in there]
            ready = [line for line in new if not self._waits(line)]
            held_back = ready != new
            for line in ready:
                there.insert(_place(line, there), line)
            return there

        merge_lines(self._store, EVALUATIONS, merged)
        self._rewound = None
        if stamp is not None and not held_back:
            self._note(EVALUATIONS, stamp, stamp[0])

    def _still_counting(self, there: list[bytes]) -> list[bytes]:
        return there if self._rewound is None else [line for line in there if _row_step(line) <= self._rewound]

    def _waits(self, line: bytes) -> bool:
        """Whether a row names a checkpoint that lies here and is not at the URL yet, nor a newer one, or as good as."""
        key = _row(line).get("checkpoint")
        stamp = self._stamp(key) if isinstance(key, str) else None
        newest = max([self._next, *(step_of(there) or 0 for there in self.checkpoints)])
        return stamp is not None and self._there.get(str(key)) != stamp and _row_step(line) >= newest

    def _note(self, key: str, stamp: _Stamp, size: int) -> None:
        self._there[key], self._sizes[key] = stamp, size
        if step_of(key) is not None:
            self.checkpoints.add(key)

    def _is_same(self, key: str, stored: Stored) -> bool:
        path = self._folder / key
        start = max(0, stored.num_bytes - _TAIL)
        with naming("read", path), path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != stored.num_bytes:
                return False
            file.seek(start)
            return file.read() == self._store.read(key, start, stored.num_bytes - start)

    def _keys(self) -> Iterator[str]:
        for place, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(place).relative_to(self._folder)
            yield from (str(base / name) for name in names if not name.startswith("."))

    def _stamp(self, key: str) -> _Stamp | None:
        try:
            found = (self._folder / key).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino


def _urgency(key: str) -> tuple[int, int, str]:
    step = step_of(key)
    if step is not None:
        return 2, -step, key
    return {RECIPE: 0, COMMANDS: 1, EVALUATIONS: 4, RESULT: 5}.get(key, 3), 0, key


def _row(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _place(line: bytes, there: list[bytes]) -> int:
    """Where a row belongs among others: behind all that are of its step or an earlier one, in whichever order."""
    step = _row_step(line)
    return next((place for place, other in enumerate(there) if _row_step(other) > step), len(there))


def _row_step(line: bytes) -> int:
    step = _row(line).get("step")
    return step if isinstance(step, int) else 0


def pull(store: Store, folder: Path) -> None:
    """Have the folder at `folder` hold what training reads of the run at the URL, but for its checkpoints.

    Where it holds what a command on this machine left, it is used as it is, unless the run has gone on since on another
    one, as commands.jsonl says: then what is at the URL takes its place. Raises UsageError where other things are at
    the URL, RunError where nothing is there any more of what lies here.
    """
    listed = {stored.key: stored for stored in store.list() if not is_hidden(stored.key)}
    is_run = RECIPE in listed or any(step_of(key) is not None for key in listed)
    if listed and not is_run and set(listed) != {"log.txt"}:
        raise UsageError(f"{store.url} is not empty and holds no run", "choose a new place for --output")
    if not is_run and (folder / KEPT_FILE).exists():
        raise RunError(
            f"{store.url} holds no run any more, but its copy on this machine has what was never sent",
            f"remove {folder} to begin anew, or copy it to {store.url} to go on",
        )
    commands = read_present(store, COMMANDS) or b""
    if not _begins_with(folder / COMMANDS, whole_lines(commands)):
        clear(folder)
    download(store, [key for key in listed if is_log(key) and not (folder / key).exists()], folder)
    if EVALUATIONS in listed:
        _add_lines(folder / EVALUATIONS, whole_lines(read_present(store, EVALUATIONS) or b""))


def _add_lines(path: Path, lines: list[bytes]) -> None:
    with naming("read", path):
        own = whole_lines(path.read_bytes())
    new = [line for line in lines if line not in own]
    if new:
        append_lines(path, new)


def clear(folder: Path) -> None:
    """Remove all files below a folder."""
    for place, _, names in os.walk(folder):
        for name in names:
            remove(Path(place, name))


def download(store: Store, keys: Iterable[str], folder: Path) -> None:
    """Bring small files from a store, several at a time, under their keys; what is gone by then is left out."""

    def one(key: str) -> None:
        path = folder / key
        with naming("write", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        data = read_present(store, key)
        if data is not None:
            write_atomically(path, lambda file: file.write(data))

    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        for _ in pool.map(one, keys):
            pass


def _begins_with(path: Path, lines: list[bytes]) -> bool:
    with suppress(FileNotFoundError):
        return whole_lines(path.read_bytes())[: len(lines)] == lines
    return not lines


def checkpoint_keys(store: Store) -> list[str]:
    """The keys of the checkpoints of the run at a URL, by their step."""
    steps = {
        f"{CHECKPOINTS}{stored.key}": step_of(f"{CHECKPOINTS}{stored.key}") for stored in store.list("checkpoints")
    }
    return sorted((key for key, step in steps.items() if step is not None), key=lambda key: steps[key] or 0)
