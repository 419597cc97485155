"""Finding the TFRecord shards that another program wrote, by their names and by what they begin with.

    DATA/train-00000-of-01024        DATA/validation-00000-of-00128        the Inception script
    DATA/train/train-00000-of-01024  DATA/validation/validation-00000-…    the TPU script, TF Model Garden
    DATA/imagenet2012-train.tfrecord-00000-of-01024, DATA/val-0001.tfrecord, DATA/train/part-3, …

A file belongs to the split whose word is in its name or else in its folder's.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagesprint.errors import RecordError, UsageError
from imagesprint.records.manifest import SPLITS
from imagesprint.records.tfrecord import is_tfrecord

_SPLIT_WORD = re.compile(r"(?<![a-z])(?:(train|training)|(val|valid|validation))(?![a-z])")
_NUMBERED = re.compile(r"([0-9]+)-of-([0-9]+)$")
_OWN_FILES = (".npz", ".json", ".jsonl", ".tmp")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class ForeignShard:
    """A shard that another program wrote: where it lies, its size in bytes, and its name in a variant's folder."""

    split: str
    path: Path
    num_bytes: int
    name: str


def find_shards(folder: Path) -> tuple[list[ForeignShard], tuple[str, ...]]:
    """Return the shards in `folder` and in its folders named after a split, in order, and notes for the user.

    Raises UsageError for names that contradict each other, RecordError for a shard that does not begin with a sound
    record, OSError.
    """
    shards: list[ForeignShard] = []
    strays: list[Path] = []
    for place in (folder, *(entry for entry in sorted(folder.iterdir()) if _is_split_folder(entry))):
        for path in sorted(place.iterdir(), key=_by_number):
            split = _split_of(path.name) or (_split_of(place.name) if place != folder else None)
            if split is None or path.name.startswith(".") or path.suffix in _OWN_FILES or not path.is_file():
                continue
            if not _is_shard(path):
                strays.append(path)
                continue
            name = path.name if _split_of(path.name) else f"{split}-{path.name}"
            shards.append(ForeignShard(split, path, path.stat().st_size, name))
    shards.sort(key=lambda shard: SPLITS.index(shard.split))
    _check_names(shards)
    notes = [f"{len(strays)} files are no TFRecords and are left out, the first of them {strays[0]}"] if strays else []
    return shards, (*notes, *_missing(shards), *_empty(shards))


def _is_split_folder(path: Path) -> bool:
    return _SPLIT_WORD.fullmatch(path.name.lower()) is not None and path.is_dir()


def _split_of(name: str) -> str | None:
    match = _SPLIT_WORD.search(name.lower())
    return match and ("train" if match[1] else "validation")


def _by_number(path: Path) -> list[str | int]:
    """Sort key that puts train-2 before train-10: text and numbers take turns."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", path.name))]


def _number_and_total(path: Path) -> tuple[int, int] | None:
    """Return (7, 1024) for a name that ends in 00007-of-01024."""
    match = _NUMBERED.search(path.name)
    return match and (int(match[1]), int(match[2]))


def _is_shard(path: Path) -> bool:
    """Return whether the file is a TFRecord. Raises RecordError for one that is named like a shard and is not sound."""
    if is_tfrecord(path):
        return True
    if not _NUMBERED.search(path.name) and ".tfrecord" not in path.name.lower():
        return False
    with path.open("rb") as file:
        begin = file.read(len(_GZIP))
    if not begin:
        return True  # TensorFlow's writers leave shards empty where there are fewer records
    if begin == _GZIP:
        raise RecordError(f"shard {path} is compressed by gzip", "unpack all shards: a record must be read by itself")
    raise RecordError(
        f"shard {path}: the record at byte 0 has a damaged header",
        "copy it anew from where it is sound, or rename it if it is no TFRecord",
    )


def _check_names(shards: Sequence[ForeignShard]) -> None:
    """Raise UsageError if two shards have one name, or if a split's names count to different totals."""
    first: dict[str, ForeignShard] = {}
    totals: dict[str, tuple[int, ForeignShard]] = {}
    for shard in shards:
        other = first.setdefault(shard.name, shard)
        numbered = _number_and_total(shard.path)
        if other is shard and numbered:
            total, counted = totals.setdefault(shard.split, (numbered[1], shard))
            other = shard if total == numbered[1] else counted
        if other is not shard:
            raise UsageError(
                f"{other.path} and {shard.path} are of two sets of shards", "move one of the sets into another folder"
            )


def _missing(shards: Sequence[ForeignShard]) -> list[str]:
    """Return a note for each split that has fewer shards than their names say."""
    notes = []
    for split in SPLITS:
        found = dict(filter(None, (_number_and_total(shard.path) for shard in shards if shard.split == split)))
        for total in set(found.values()):
            if len(found) < total:
                first = next(number for number in itertools.count() if number not in found)
                notes.append(
                    f"{total - len(found)} of {total:,} {split} shards are missing, the first is number {first}"
                )
    return notes


def _empty(shards: Sequence[ForeignShard]) -> list[str]:
    empty = [shard for shard in shards if not shard.num_bytes]
    return [f"{len(empty)} shards are empty, the first of them {empty[0].path}"] if empty else []
