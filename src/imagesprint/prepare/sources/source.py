"""Where images come from: what `prepare` asks of any source, whatever form its images are downloaded in."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from imagesprint.errors import DataError
from imagesprint.records.manifest import ClassInfo

GIVE_IMAGES: Final = "give it training images, or move it away"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file of a source, not yet read.

    `location` says where in the source it lies, for `read` and for people, with slashes; its last part is the file's
    name. `label` counts the source's classes from 0. `num_bytes` is the file's size, or an estimate where the source
    cannot know it without reading. `offset` is where it begins in a file that holds many (in bytes for a tar, in rows
    for a table). `boxes` are ymin, xmin, ymax, xmax, each in 0..1. Samples of one split with the same `block` ≥ 0 are
    cheap to read one after another and dear to read apart (a row group of a table); −1: any order is as good.
    """

    location: str
    label: int
    num_bytes: int
    offset: int = 0
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    block: int = -1

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
    splits: Mapping[str, list[Sample]]
    notes: tuple[str, ...] = ()
    offer: str = ""


class Source(Protocol):
    """A set of labelled images in the folder `path`. Small to pickle: each worker process gets it with each shard."""

    kind: str
    path: Path

    def scan(self) -> Listing:
        """Return all samples, in any order, without reading an image. Raises UsageError or DataError."""
        ...

    def read(self, sample: Sample) -> bytes:
        """Return the file of a sample of the listing.

        Raises DataError if it cannot be read or has changed since the listing (`changed` makes the error).
        """
        ...


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


def check_every_class(
    classes: Sequence[str],
    samples: Sequence[Sample],
    place: object,
    hint: str = GIVE_IMAGES,
) -> None:
    """Raise DataError if one of `classes`, named in the order of their labels, has no sample in `place`."""
    present = {sample.label for sample in samples}
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise DataError(
            f"class {empty[0]!r} has no images in {place}"
            + (f" (and {len(empty) - 1} more have none)" if len(empty) > 1 else ""),
            hint,
        )
