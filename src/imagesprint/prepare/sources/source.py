"""Where images come from: what `prepare` asks of any source, whatever form its images are downloaded in."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagesprint.errors import DataError
from imagesprint.prepare.names import and_more
from imagesprint.records.manifest import ClassInfo
from imagesprint.storage.store import Stored

GIVE_IMAGES: Final = "give it training images, or move it away"
Box = tuple[float, float, float, float]  # ymin, xmin, ymax, xmax, each in 0..1


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image file of a source, not yet read.

    `location` says where in the source it lies, for `read` and for people, with slashes; its last part is the file's
    name. `label` counts the source's classes from 0. `num_bytes` is the file's size, or an estimate where the source
    cannot know it without reading. `offset` is where it begins in a file that holds many (in bytes for a tar, in rows
    for a table). Images of one split with the same `block` ≥ 0 are cheap to read one after another and dear to read
    apart (a row group of a table); −1: any order is as good. `stored` is the entry of a file that is read from a store.
    """

    location: str
    label: int
    num_bytes: int
    offset: int = 0
    boxes: tuple[Box, ...] = ()
    block: int = -1
    stored: Stored | None = None

    @property
    def name(self) -> str:
        """The file's name, kept in the record."""
        return self.location.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """What a source holds. `splits` has "train" and, unless the source knows no split, "validation".

    `notes` are warnings for the user, one sentence each. `offer` is for the hint where there is no validation split:
    what might become one, such as test, and how.
    """

    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, list[SourceImage]]
    notes: tuple[str, ...] = ()
    offer: str = ""


class Source(ABC):
    """A set of labelled images in the folder `path`. Small to pickle: each worker process gets it with each shard.

    `kind` is its name, kept in dataset.json; `form` is what it looks like, one line for people. `files` are patterns,
    as of fnmatch, of the paths of files that it reads beside images: from a store these are fetched before.
    """

    kind: str
    form: str
    files: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    @abstractmethod
    def fits(path: Path) -> bool:
        """Tell whether one lies at `path`, by a look at names, and at the first file where these say nothing."""

    def scan(self) -> Listing:
        """Return all images, in any order, without reading one; no "validation" where the source has no such split.

        Raises UsageError where something is missing or it is not clear what is meant, DataError for what is damaged,
        cannot be read, or does not fit together.
        """
        try:
            return self._scan()
        except OSError as error:
            raise DataError(
                f"cannot read {error.filename}: {error.strerror}", "make it readable, or remove it from the source"
            ) from error

    @abstractmethod
    def _scan(self) -> Listing:
        """Do the work of `scan`. May raise OSError, too."""

    @abstractmethod
    def read(self, sample: SourceImage) -> bytes:
        """Return the file of a sample of the listing; nothing where a table has none.

        Raises DataError if it cannot be read or has changed since the listing (`changed` makes the error).
        """

    def read_all(self, samples: Sequence[SourceImage]) -> Iterator[bytes]:
        """Yield what `read` returns for each of `samples`, in order."""
        return map(self.read, samples)


def changed(location: str, what: str) -> DataError:
    """Return the error that the source's file at `location` is not what it was when the source was listed."""
    return DataError(
        f"{location} changed while it was prepared: {what}",
        "prepare again once nothing writes to the source, into another ROOT",
    )


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's size in bytes and time of change in ns: what tells that it is still the one that was listed."""

    num_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Return the stamp in what `os.stat` says."""
        return cls(status.st_size, status.st_mtime_ns)

    def check(self, status: os.stat_result, location: str) -> None:
        """Raise DataError if the file at `location` has another stamp now."""
        now = Stamp.of(status)
        if now.num_bytes != self.num_bytes:
            raise changed(location, f"{self.num_bytes} bytes before, {now.num_bytes} now")
        if now != self:
            raise changed(location, "it was written to")


def plain_classes(names: Iterable[str]) -> tuple[ClassInfo, ...]:
    """Return the classes called `names`, of which no more is known, in the order of their labels."""
    return tuple(ClassInfo(name, synset=name, text=name) for name in names)


def check_every_class(
    classes: Sequence[str], samples: Sequence[SourceImage], place: object, hint: str = GIVE_IMAGES
) -> None:
    """Raise DataError if one of `classes`, named in the order of their labels, has no sample in `place`."""
    present = {sample.label for sample in samples}
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise DataError(f"class {empty[0]!r} has no images in {place}{and_more(empty, ' have none')}", hint)
