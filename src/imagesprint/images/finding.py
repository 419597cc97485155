"""Finding images that lie as files in folders: the one way to walk, for the sources of `prepare` and for `predict`.

Litter is passed over (`is_litter`). Links are followed, but not in circles, nor from one class's images to another's.
What no program would call an image is left out by its name (`is_no_image`). A walk counts what it does not take.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagesprint.errors import DataError

# fmt: off
# Of the formats that `images.coding` opens.
SUFFIXES: Final = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
))
# Nobody's images: texts, tables, annotations, archives, arrays, weights, programs, films. What is not here is tried, as
# people have images without a suffix or with one of their own; so are formats that cannot be read (heic, svg, psd) and
# downloads that are not finished, since each of them is an image that its owner would miss.
_NO_IMAGES: Final = frozenset((
    ".txt", ".md", ".rst", ".html", ".htm", ".url", ".lnk", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx",
    ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".log", ".lst",
    ".names", ".meta", ".xmp", ".aae", ".thm", ".db", ".sqlite", ".sqlite3", ".info", ".torrent",
    ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".md5", ".sha1", ".sha256", ".crc",
    ".npy", ".npz", ".mat", ".pkl", ".pickle", ".h5", ".hdf5", ".parquet", ".arrow", ".feather", ".lmdb", ".mdb",
    ".bak", ".orig", ".old", ".tmp", ".swp", ".lock", ".cache", ".jbf", ".inf",
    ".rec", ".idx", ".index", ".tfrecord", ".tfrecords", ".beton", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx",
    ".py", ".pyc", ".ipynb", ".sh", ".bat", ".ps1", ".js", ".css", ".m", ".c", ".h", ".exe", ".dll", ".so",
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mp3", ".wav",
))
# fmt: on
_TEXTS: Final = frozenset(("readme", "license", "licence", "copying", "authors", "changelog", "makefile"))

# What systems and programs leave beside people's files, thumbnails of these among them; in any case of letters.
_LITTER: Final = re.compile(
    r"\..*"  # hidden, such as .DS_Store, ._photo.jpg, .ipynb_checkpoints, .Trash-1000, .@__thumb
    r"|__macosx|icon\r|network trash folder|temporary items"  # macOS
    r"|(eh)?thumbs(_vista)?\.db|desktop\.ini|\$recycle\.bin|recycle[rd]"  # Windows
    r"|.*:(zone\.identifier|encryptable)(:\$data)?"  # its second streams of a file, where they became files
    r"|.*~|#.*#|~\$.*"  # editors
    r"|system volume information|found\.\d{3}"
    r"|@eadir|.*@syno(eastream|resource)|#recycle|#snapshot|@sharebin|@tmp"  # Synology
    r"|@recycle|@recently-snapshot|@__thumb|~snapshot"  # QNAP, NetApp
    r"|picasa\.ini|zbthumbnail\.info|bridgecache|bridgecachet|_vti_cnf"  # Picasa, Zoner, Adobe Bridge, FrontPage
    r"|lost\+found|__pycache__",
    re.IGNORECASE | re.DOTALL,
)


def is_litter(name: str) -> bool:
    """Return whether a file or folder of that name is none of a data set's: neither a class nor an image.

    `name` is one part of a path; what lies in a folder that is litter is litter too.
    """
    return _LITTER.fullmatch(name) is not None


def is_image(name: str) -> bool:
    """Return whether a file's name ends as those of images do that can be read."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_no_image(name: str) -> bool:
    """Return whether a file of that name is surely no image; names that say nothing may be an image's."""
    return os.path.splitext(name)[1].lower() in _NO_IMAGES or name.lower() in _TEXTS


@dataclass(slots=True)
class Tally:
    """How many of a kind, and which was the first."""

    count: int = 0
    first: str = ""

    def add(self, what: str) -> None:
        self.first = self.first or what
        self.count += 1

    def note(self, text: str) -> list[str]:
        """Return the note that says so after `text`; none where there is nothing to say."""
        if self.count < 2:
            return [f"{text}: {self.first}"] * self.count
        return [f"{text}: {self.count:,}, the first of them {self.first}"]


class Walk:
    """Walks through the folders of one data set, and counts what it passes over.

    `homes` are the folders that hold the images of one class each (of each split). A link to images that have their
    home in another of them is passed over, so that no image comes under a class that is not its own. Raises DataError
    where one of them is another, or lies in it: a link has made it so.
    """

    def __init__(self, homes: Sequence[str | Path]) -> None:
        self._homes: dict[str, str] = {}  # by the real path of each folder of images: the home they belong to
        self._litter, self._left_out, self._outside, self.astray = Tally(), Tally(), Tally(), Tally()
        real = {os.path.realpath(home): str(home) for home in reversed(homes)}
        for home in map(str, homes):
            place = os.path.realpath(home)
            other = real[place] if real[place] != home else self._owner(os.path.dirname(place), real)
            if other is not None:
                raise DataError(
                    f"{home} and {other} lead to the same images",
                    "remove the link that makes it so: an image has one class, in one split",
                )
        self._homes.update(zip(real, real, strict=True))
        self._above = {parent for place in real for parent in _parents(place)}

    def files(self, folder: str | Path) -> Iterator[os.DirEntry[str]]:
        """Yield every file below `folder`, sorted by name, those of a folder before those of the folders in it.

        A broken link is yielded as a file. Raises OSError for a folder that cannot be read.
        """
        home = os.path.realpath(folder)
        waiting = [(str(folder), frozenset[tuple[int, int]]())]
        while waiting:
            path, seen = waiting.pop()
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                self.astray.add(path)
                continue
            inner = []
            for entry in _entries(path, self._litter):
                leads_to_folder = is_folder(entry)
                if entry.is_symlink() and self._leads_astray(entry, leads_to_folder, home):
                    continue
                if leads_to_folder:
                    inner.append((entry.path, seen | {identity}))
                else:
                    yield entry
            waiting += reversed(inner)

    def images(self, folder: str | Path) -> list[tuple[str, int]]:
        """Return (path, size) of every regular file below `folder` that may be an image.

        Raises DataError for a broken link, OSError.
        """
        found = []
        for entry in self.files(folder):
            check_link(entry)
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            if is_no_image(entry.name):
                self._left_out.add(entry.path)
            else:
                found.append((entry.path, status.st_size))
        return found

    def look(self, folder: Path) -> tuple[list[str], list[str]]:
        """Return what `visible` does, and count the litter beside it."""
        return _by_kind(_entries(folder, self._litter))

    def leads_home(self, folder: Path) -> bool:
        """Return whether `folder` is a home, or holds one, or what a followed link leads to."""
        place = os.path.realpath(folder)
        return place in self._homes or place in self._above

    def notes(self) -> list[str]:
        """Return what was passed over so far, one sentence for each reason."""
        return [
            *self._litter.note("what systems and programs leave behind is passed over"),
            *self._left_out.note("files in class folders that are no images by their names are left out"),
            *self._outside.note("links that lead out of their class folders are followed"),
            *self.astray.note("links to the images of another class, or back to those of their own, are passed over"),
        ]

    def _leads_astray(self, link: os.DirEntry[str], to_folder: bool, home: str) -> bool:
        """Return whether a link must not be followed; count it if it leaves `home`."""
        if not os.path.exists(link.path):
            return False
        target = os.path.realpath(link.path)
        owner = self._owner(target, self._homes)
        # A folder of its own class is found without the link. A file is not: people repeat images of rare classes.
        astray = owner is not None or target in self._above if to_folder else owner not in (None, home)
        if astray:
            self.astray.add(f"{link.path} -> {target}")
        elif owner is None:
            self._outside.add(f"{link.path} -> {target}")
            if to_folder:
                self._homes[target] = home
                self._above.update(_parents(target))
        return astray

    @staticmethod
    def _owner(path: str, homes: dict[str, str]) -> str | None:
        return next((homes[place] for place in (path, *_parents(path)) if place in homes), None)


def visible(folder: str | Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and of the files straight in `folder`, without litter.

    Raises DataError for a broken link, OSError.
    """
    return _by_kind(_entries(folder))


def check_link(entry: os.DirEntry[str]) -> None:
    """Raise DataError if `entry` is a broken link."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise DataError(
            f"{entry.path} is a broken link to {os.readlink(entry.path)}", "repair it, or remove it from the source"
        )


def _entries(folder: str | Path, litter: Tally | None = None) -> list[os.DirEntry[str]]:
    kept = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not is_litter(entry.name):
                kept.append(entry)
            elif litter is not None and (not entry.name.startswith(".") or _hides_images(entry)):
                litter.add(entry.path)
    return kept


def _by_kind(entries: list[os.DirEntry[str]]) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    files: list[str] = []
    for entry in entries:
        check_link(entry)
        (folders if entry.is_dir() else files).append(entry.name)
    return folders, files


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether `entry` is a folder or leads to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _hides_images(entry: os.DirEntry[str]) -> bool:
    """Return whether a hidden file or folder holds what its owner might miss; macOS's ._NAME.jpg are none."""
    if not entry.is_dir(follow_symlinks=False):
        return is_image(entry.name) and not entry.name.startswith("._")
    names = (name for _, _, files in os.walk(entry.path) for name in files)
    return any(is_image(name) and not name.startswith("._") for name in names)


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent
