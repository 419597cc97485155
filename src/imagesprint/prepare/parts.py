"""ROOT/.parts: what an unfinished `prepare` knows of itself, so that the same command goes on where it stopped.

plan.json                       what is being made; another plan is refused
VARIANT-SHARD.index.npz         a finished shard's rows of the index
SHARD.json                      written last: the shard is finished in all variants; its checksums, its rejects, and
                                of which plan it is: parts are copied together by hand
*.tmp                           shards being written
lock                            the file of which record locks are taken

Several parts are prepared in a ROOT at a time, no shard twice, and one process alone joins them. The lock's first byte
is held by whoever begins, byte i + 1 stands for train shard i and the validation shards that belong to it, and the
joining of parts holds them all. Such locks also hold among machines that share a file system, and end with their
process.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from imagesprint.console import Console
from imagesprint.errors import FileError, RecordError, UsageError
from imagesprint.files import TEMPORARY_PATTERN, naming, no_lock, remove, write_text
from imagesprint.images.decoders import use_native
from imagesprint.prepare.plan import Shard, differences
from imagesprint.records.dataset import PARTS, is_variant_name
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, ShardInfo, from_plain

LOCK = "lock"

_BEGINNING = (0, 1)  # first byte and length
_ALL = (0, 0)  # a length of 0 reaches to the end of any file
_IN_USE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)
_HELD = (errno.EACCES, errno.EAGAIN)  # what a lock that another process holds comes to
_LEFT_OVER = "what was prepared is whole: give the same command again, it removes what is left"


class Lock:
    """The lock of one ROOT. Use `open_lock`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = _open(root)

    def take_beginning(self, console: Console) -> None:
        """Keep others from beginning; wait while one begins, or joins what is there."""
        if not self._take(_BEGINNING, wait=False):
            console.line(f"waiting for another `imagesprint prepare` to begin or to end in {self._root}")
            self._take(_BEGINNING, wait=True)

    def take_part(self, first: int, end: int) -> None:
        """Lock train shards `first` up to `end`. Raises UsageError if another process works at any of them."""
        if first < end and not self._take((first + 1, end - first), wait=False):
            raise UsageError(
                f"another `imagesprint prepare` is at work in {self._root}, at some of train shards {first}:{end}",
                "wait for it, or stop it",
            )

    def take_all(self) -> None:
        """Lock all of ROOT; wait until nobody else is at work in it."""
        self._take(_ALL, wait=True)

    def release_beginning(self) -> None:
        """Let others begin."""
        self._lock(fcntl.LOCK_UN, _BEGINNING)

    def release_all(self) -> None:
        """Let go of everything."""
        self._lock(fcntl.LOCK_UN, _ALL)

    def close(self) -> None:
        """Let go of everything; remove .parts if it holds nothing but the lock and nobody else is at work.

        Raises FileError where it cannot be removed.
        """
        folder, removes = self._root / PARTS, False
        with naming("remove", folder, _LEFT_OVER):
            try:
                with suppress(FileNotFoundError):  # somebody has removed it by hand
                    removes = self._take(_ALL, wait=False) and os.listdir(folder) == [LOCK]
                    if removes:
                        with naming("remove", folder / LOCK, _LEFT_OVER):
                            (folder / LOCK).unlink(missing_ok=True)
            finally:
                os.close(self._file)  # before the folder goes: over NFS an open file stays in it under another name
            if removes:
                try:
                    os.rmdir(folder)
                except OSError as error:
                    if error.errno not in _IN_USE:  # by a process that has begun in it meanwhile
                        raise

    def _take(self, span: tuple[int, int], wait: bool) -> bool:
        while self._lock(fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), span):
            with naming("read", self._root / PARTS / LOCK):
                if os.fstat(self._file).st_nlink:
                    return True
            # Whoever held it before has finished and removed the file: there is a new one, or none.
            os.close(self._file)
            self._file = _open(self._root)
        return False

    def _lock(self, how: int, span: tuple[int, int]) -> bool:
        """Lock or unlock a span; return whether that went, False if another process holds it."""
        start, length = span
        try:
            fcntl.lockf(self._file, how, length, start)
        except OSError as error:
            if how != fcntl.LOCK_UN and error.errno in _HELD:
                return False
            refused = no_lock(self._root / PARTS / LOCK, error)
            raise UsageError(refused.what, refused.hint) from error
        return True


@contextmanager
def open_lock(root: Path) -> Iterator[Lock]:
    """Open the lock of `root`, a folder that is made if need be.

    Raises UsageError if it cannot be written to or has no locks. In the end .parts is removed where it holds no state;
    raises FileError if it cannot be.
    """
    lock = Lock(root)
    try:
        yield lock
    except BaseException:
        with suppress(FileError, UsageError):  # that error comes first; the next command removes what is left
            lock.close()
        raise
    lock.close()


def _open(root: Path) -> int:
    path = root / PARTS / LOCK
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(root, error) from error
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # the process that finished has removed the folder meanwhile
        except OSError as error:
            raise _cannot_write(root, error) from error


def _cannot_write(root: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write to {error.filename or root}: {error.strerror}", "choose another ROOT")


CONTENT_BYTES = 16  # of a source image's hash
NO_IMAGE = bytes(CONTENT_BYTES)  # instead of the hash of a file that is none

PLAN = "plan.json"
_SHARD_NAME = re.compile(r"(train|validation)-\d+-of-\d+")


REJECTED = "rejected.jsonl"  # in a variant's folder: a Rejection a line
CONVERTED = "converted.jsonl"


class Rejection(TypedDict):
    """A row of rejected.jsonl."""

    split: str
    file: str
    reason: str


@dataclass(frozen=True)
class ShardResult:
    """A finished shard: what it is in each variant, and what was found out about its source images.

    `rejected` has those that are left out. `converted` has the positions in the shard of those that
    are no JPEG in RGB or grey, by what they are. `contents` is a hash of CONTENT_BYTES of each one's file, in
    hexadecimal digits, zeros where it is no image. `cpu_seconds` is what was spent on "decode" and on each variant.
    """

    split: str
    name: str
    variants: dict[str, ShardInfo]
    rejected: tuple[Rejection, ...]
    converted: dict[str, list[int]]
    contents: str
    cpu_seconds: dict[str, float]

    def iter_contents(self) -> Iterator[bytes]:
        """Yield the hash of each source image, in order."""
        contents = bytes.fromhex(self.contents)
        for start in range(0, len(contents), CONTENT_BYTES):
            yield contents[start : start + CONTENT_BYTES]


def coder() -> str:
    """Return what shrinks JPEGs on this machine, on which their bytes depend: "native" or "pillow"."""
    return "native" if use_native() else "pillow"


def unfinished_variants(root: Path) -> tuple[str, ...]:
    """Return the variants that a `prepare` into `root` has begun and not finished. Raises RecordError, FileError."""
    return tuple(variant for variant in _read_plan(root)[0] if not _is_finished(root / variant))


def _is_finished(folder: Path) -> bool:
    with naming("read", folder / FILE_NAME):
        return (folder / FILE_NAME).exists()


def _read_plan(root: Path) -> tuple[tuple[str, ...], dict[str, object]]:
    """Return the variants that were begun in `root`, none if none were, and the rest of the plan.

    Raises RecordError if it is damaged, FileError.
    """
    path = root / PARTS / PLAN
    with naming("read", path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return (), {}
    try:
        plan = json.loads(content)
        variants = tuple(plan["variants"])
        if not all(is_variant_name(name) for name in variants):
            raise ValueError(f"it has the variants {list(variants)}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        folders = [entry for entry in _entries(root) if is_variant_name(entry.name)]
        unfinished = [str(folder) for folder in sorted(folders) if not _is_finished(folder)]
        raise RecordError(
            f"{path} is damaged: {error!r}",
            f"delete {' and '.join([str(root / PARTS), *unfinished])}, together, then give the same command again",
        ) from error
    return variants, {key: value for key, value in plan.items() if key != "variants"}


@dataclass(frozen=True)
class Parts:
    """The state of an unfinished `prepare` of `variants` into `root`, of images stored as `image_format`."""

    root: Path
    variants: tuple[str, ...]
    image_format: str

    @property
    def folder(self) -> Path:
        return self.root / PARTS

    def begin(self, made_by: Mapping[str, object], own: Collection[str]) -> None:
        """Begin with this plan, or go on with it; `own` names the shards that nobody else works at.

        Raises UsageError if another plan is unfinished, FileError.
        """
        # The coder, too: bytes of two coders must not be mixed.
        now = {"variants": list(self.variants), "image_format": self.image_format, "coder": coder(), **made_by}
        unfinished = unfinished_variants(self.root)
        if unfinished:
            found = differences({"variants": list(unfinished), **_read_plan(self.root)[1]}, now)
            if found:
                raise UsageError(
                    f"{self.root} has an unfinished prepare of another plan ({'; '.join(found)})",
                    f"give the command it was begun with, or delete {self.folder} and the unfinished folders beside it",
                )
            for path in _entries(self.folder):  # what a killed run was writing
                shard = _SHARD_NAME.search(path.name)
                if path.suffix == ".tmp" and shard and shard[0] in own:
                    remove(path)
        else:
            for variant in self.variants:
                if _entries(self.root / variant):
                    raise UsageError(
                        f"{self.root / variant} is not empty, and prepare has not made what is in it",
                        "choose another ROOT, or move that folder away",
                    )
            self.clear()
            write_text(self.folder / PLAN, json.dumps(now, indent=1) + "\n")
        for variant in self.variants:
            with naming("write", self.root / variant):
                (self.root / variant).mkdir(exist_ok=True)

    def sweep_variants(self) -> None:
        """Remove what a killed run was writing in the end."""
        for variant in self.variants:
            for path in _entries(self.root / variant):
                if path.match(TEMPORARY_PATTERN):
                    remove(path)

    def index_path(self, variant: str, name: str) -> Path:
        """Return where the rows of a shard's index lie."""
        return self.folder / f"{variant}-{name}.index.npz"

    def finish_shard(self, result: ShardResult) -> None:
        """Note that a shard is finished in all variants. Raises FileError."""
        content = {"plan": self._plan_digest(), **asdict(result)}
        write_text(self._result_path(result.name), json.dumps(content) + "\n")

    def reopen_shard(self, name: str) -> None:
        """Forget that a shard is finished: it is about to be written again. Raises FileError."""
        remove(self._result_path(name))

    def find_result(self, shard: Shard) -> ShardResult | None:
        """Return the result of a shard if it is finished by this plan and its files are there, as long as they were."""
        try:
            content = json.loads(self._result_path(shard.name).read_text(encoding="utf-8"))
            infos = {variant: from_plain(ShardInfo, content["variants"][variant]) for variant in self.variants}
            rejected = tuple(
                Rejection(split=str(row["split"]), file=str(row["file"]), reason=str(row["reason"]))
                for row in content["rejected"]
            )
            converted = {kind: [int(i) for i in positions] for kind, positions in content["converted"].items()}
            seconds = {name: float(spent) for name, spent in content["cpu_seconds"].items()}
            result = ShardResult(
                shard.split, shard.name, infos, rejected, converted, content["contents"], cpu_seconds=seconds
            )
            whole = content["plan"] == self._plan_digest()
            whole = whole and len(bytes.fromhex(result.contents)) == CONTENT_BYTES * len(shard.samples)
            whole = whole and all(self._is_whole(variant, shard, result) for variant in self.variants)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RecordError):
            return None  # whatever is the matter: the shard is made anew
        return result if whole else None

    def _is_whole(self, variant: str, shard: Shard, result: ShardResult) -> bool:
        index, info = Index.read(self.index_path(variant, shard.name)), result.variants[variant]
        size = (self.root / variant / shard.name).stat().st_size
        expected = ShardInfo(shard.name, size, len(shard.samples) - len(result.rejected), info.crc32c)
        return info == expected and (index.shard_names, len(index)) == ((info.name,), info.num_records)

    def _plan_digest(self) -> str:
        """Return 64 hex digits that stand for what the plan says of any shard. Raises RecordError, FileError."""
        return hashlib.sha256(json.dumps(_read_plan(self.root)[1], sort_keys=True).encode()).hexdigest()

    def clear(self) -> None:
        """Forget everything: all is finished. Raises FileError."""
        for path in _entries(self.folder):
            if path.name != LOCK:
                remove(path)

    def _result_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder; nothing where there is none. Raises FileError."""
    with naming("read", folder):
        return list(folder.iterdir()) if folder.is_dir() else []
