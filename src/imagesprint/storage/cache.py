"""The cache: a folder of this machine for what was brought here from stores, how large it may be, and what goes first.

Below it lies a folder for each kind of content. What this module counts and evicts are the folders of one kind, such as
`shards/FINGERPRINT`: whole, the one that was used longest ago first, and none that a process holds (`CacheHold`). Files
count with their size, also where they are sparse: a file that is being filled reserves the room that it will take.
"""

import fcntl
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.files import naming

FOLDER_VARIABLE: Final = "IMAGESPRINT_CACHE"
LIMIT_VARIABLE: Final = "IMAGESPRINT_CACHE_LIMIT"
RESERVED_SHARE: Final = 20  # a twentieth of the disk stays free, but not more than:
MOST_RESERVED: Final = 20 << 30  # bytes
_EVICTED: Final = ".evicted-"  # what the name of a folder begins with that is being deleted
_BLOCK: Final = 512  # bytes: the unit of st_blocks, whatever the file system's own
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def cache_folder() -> Path:
    """Return the cache's folder, which need not be there yet: that of --cache, else `~/.cache/imagesprint`."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesprint"


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: 500000, 300MB, 1.5 TB; with an i, as in GiB, by powers of 1024.

    Raises UsageError.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no size", "write a number of bytes, or as 300GB or 1.5TB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.upper()])


def cache_limit() -> int | None:
    """Return --cache-limit in bytes; None where there is none but the disk. Raises UsageError."""
    text = os.environ.get(LIMIT_VARIABLE)
    return parse_size(text) if text else None


class CacheHold:
    """Holds a folder of the cache, made if it is not there: as long as one process does, none evicts it.

    The lock is the kernel's: it ends with its holder, however that ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with naming("open", folder):
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
                with suppress(OSError):  # a disk without locks: there nothing is evicted either
                    fcntl.flock(self._fd, fcntl.LOCK_SH)
                if _is_at(self._fd, folder):
                    break
                os.close(self._fd)  # it was evicted before it was locked
            os.utime(folder)

    @property
    def is_valid(self) -> bool:
        """Whether the folder is still the one that is held: somebody may have deleted it all the same."""
        return _is_at(self._fd, self.folder)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def capacity(folders: Path) -> int:
    """Return how many bytes may lie below `folders`, once all that is there now has made room: by limit and disk."""
    folders.mkdir(parents=True, exist_ok=True)
    return max(0, _room(folders) + _sizes(folders)[0])


def make_room(folders: Path, wanted: int) -> int:
    """Return how many of `wanted` bytes may be added below `folders`, once what may be evicted for them is."""
    _sweep(folders)
    room = _room(folders)
    for folder in sorted(_subfolders(folders), key=_last_used):
        if room >= wanted:
            break
        if _evict(folder):
            room = _room(folders)
    return max(0, min(room, wanted))


def size_on_disk(file: Path) -> int:
    """Return how many bytes of a file, which may be sparse, are there; 0 where it is not."""
    try:
        found = file.stat()
    except OSError:
        return 0
    return min(found.st_size, found.st_blocks * _BLOCK)


def _room(folders: Path) -> int:
    """The bytes that may be added: by the limit, and by the disk with what is promised of it to sparse files."""
    sizes, unwritten = _sizes(folders)
    disk = shutil.disk_usage(folders)
    room = disk.free - min(disk.total // RESERVED_SHARE, MOST_RESERVED) - unwritten
    limit = cache_limit()
    return room if limit is None else min(room, limit - sizes)


def _sizes(folder: Path) -> tuple[int, int]:
    """The sizes of all files, in bytes, and how much of that is not written yet."""
    sizes = unwritten = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found = os.stat(os.path.join(place, name))
                sizes += found.st_size
                unwritten += max(0, found.st_size - found.st_blocks * _BLOCK)
    return sizes, unwritten


def _subfolders(folders: Path) -> list[Path]:
    with naming("read", folders):
        return [entry for entry in folders.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _last_used(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


def _evict(folder: Path) -> bool:
    """Delete a folder of the cache, unless somebody holds it or its disk has no locks; whether that was done."""
    gone = folder.with_name(f"{_EVICTED}{folder.name}-{os.getpid()}")
    with suppress(OSError):
        held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.rename(gone)  # in one step: nobody finds half of it
        finally:
            os.close(held)
        shutil.rmtree(gone, ignore_errors=True)
        return True
    return False


def _sweep(folders: Path) -> None:
    """Delete what a process was killed in the middle of evicting."""
    for left in folders.glob(f"{_EVICTED}*"):
        shutil.rmtree(left, ignore_errors=True)


def _is_at(fd: int, folder: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), folder.stat())
    return False
