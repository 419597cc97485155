"""Where images come from: what `prepare` asks of any source, whatever form its images are downloaded in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from imagesprint.records.manifest import ClassInfo


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file of a source, not yet read.

    `name` is its file name, kept in the record; `location` says where in the source it lies, for `read` and for
    people; `label` counts the source's classes from 0; `boxes` are ymin, xmin, ymax, xmax, each in 0..1.
    """

    name: str
    location: str
    label: int
    num_bytes: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Listing:
    """What a source holds. `splits` has "train" and, unless the source knows no split, "validation".

    `notes` are warnings for the user, one sentence each.
    """

    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, list[Sample]]
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A set of labelled images. Small to pickle: each worker process gets it with each shard."""

    kind: str

    def scan(self) -> Listing:
        """Return all samples, in any order, without reading an image. Raises UsageError or DataError."""
        ...

    def read(self, sample: Sample) -> bytes:
        """Return the file of a sample of the listing. Raises DataError if it cannot be read."""
        ...
