"""`index`: makes TFRecords that another program wrote trainable, without a copy; the shards stay as they are."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.foreign.shards import ForeignShard, find_shards
from imagesprint.prepare.foreign.variant import scan_variant, write_variant
from imagesprint.records.dataset import FULL, PARTS, is_variant_name, reading
from imagesprint.records.manifest import FILE_NAME, SPLITS, Manifest
from imagesprint.records.tfrecord import file_crc

_SHOWN_CLASSES = 5


@dataclass(frozen=True)
class IndexedVariant:
    """A variant that is there after `index_shards`.

    `is_linked` says that its folder holds links to the shards, `is_new` that this call made it. `first_classes` are
    the texts of the first classes by their labels as stored, `first_label` and up: for the user to check.
    """

    name: str
    is_linked: bool
    is_new: bool
    images: dict[str, int]
    num_classes: int
    first_label: int
    first_classes: dict[int, str]


@dataclass(frozen=True)
class Indexing:
    """A ROOT and what is indexed in it; `images_per_second` is 0 where nothing was left to do."""

    root: Path
    variants: tuple[IndexedVariant, ...]
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class _Target:
    """A variant's folder, and the shards that belong to it."""

    folder: Path
    shards: tuple[ForeignShard, ...]
    is_linked: bool

    @property
    def is_there(self) -> bool:
        return (self.folder / FILE_NAME).exists()


def index_shards(path: str | Path, *, console: Console, workers: int | None = None) -> Indexing:
    """Index the shards in `path`, in place where it or its folders are named as variants, else by links in `path`/full.

    Every record is read and its CRCs are checked, in `workers` processes (default: the cores that this process may
    use). A variant that is indexed already is left alone. Raises UsageError if there are no shards of both splits or no
    links can be made, DataError for what is wrong in them or has changed since they were indexed.
    """
    begun = time.monotonic()
    path = Path(os.path.abspath(path))  # the folder's name counts, and what lies beside it
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise UsageError(f"--workers {workers} is less than 1", "leave it out to use all cores")
    with reading(path):
        targets = _find_targets(path, console)
    new = [target for target in targets if not target.is_there]
    for target in targets:
        if target in new:
            _index(target, workers, console)
        else:
            _check_unchanged(target)
    variants = tuple(_describe(target, target in new) for target in targets)
    seconds = time.monotonic() - begun
    images = sum(sum(variant.images.values()) for variant in variants if variant.is_new)
    return Indexing(targets[0].folder.parent, variants, seconds, images / seconds)


def _find_targets(path: Path, console: Console) -> list[_Target]:
    """Return the variants to be: folders named as such, and the one of links to shards that lie in none of these."""
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}", "give the folder that holds the TFRecords")
    if is_variant_name(path.name):
        targets = [_Target(path, _find(path, console), is_linked=False)]
    else:
        # Links in `path`/full are to the loose shards.
        loose = _find(path, console)
        targets = [_Target(path / FULL, loose, is_linked=True)]
        targets += [
            _Target(entry, _find(entry, console), is_linked=False)
            for entry in sorted(path.iterdir())
            if is_variant_name(entry.name) and entry.is_dir() and not (loose and entry.name == FULL)
        ]
    targets = [target for target in targets if target.shards]
    if not targets:
        raise UsageError(
            f"there are no TFRecords of train and validation in {path}",
            "the split must be in the files' names, or their folders', as in train-00000-of-01024",
        )
    for target in targets:
        _check(target)
    return targets


def _find(folder: Path, console: Console) -> tuple[ForeignShard, ...]:
    shards, notes = find_shards(folder)
    for note in notes:
        console.warn(note)
    return tuple(shards)


def _check(target: _Target) -> None:
    """Raise UsageError for a variant that cannot be."""
    folder, shards = target.folder, target.shards
    for split in SPLITS:
        if not any(shard.split == split for shard in shards):
            raise UsageError(
                f"there are no {split} shards beside {shards[0].path}",
                f"name them as in {split}-00000-of-00128, or put them into a folder {split}",
            )
    if target.is_there:
        return
    if (folder.parent / PARTS).exists():
        raise UsageError(
            f"{folder.parent} is not finished: its `imagesprint prepare` was interrupted",
            "give the same prepare command again; shards that it makes need no `index`",
        )
    if target.is_linked and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty, and `index` has not made it", "move it away, or delete it")
    below = [shard.path for shard in shards if shard.path.parent != folder]
    if below and not target.is_linked:
        raise UsageError(
            f"{below[0]} does not lie in {folder} itself",
            f"move the shards up, or give {folder.name} a name in letters",
        )


def _index(target: _Target, workers: int, console: Console) -> None:
    """Make a variant of sound shards, whole or not at all."""
    found = scan_variant(target.folder, target.shards, workers, console)
    for note in found.notes:
        console.warn(note)
    try:
        write_variant(target.folder, found, target.is_linked)
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or target.folder}: {error.strerror}",
            "see to its space and permissions, then give the same command again",
        ) from error


def _check_unchanged(target: _Target) -> None:
    """Raise DataError if the shards are not those that were indexed, as far as sizes and times tell."""
    manifest = Manifest.read(target.folder)
    known = {shard.name: shard for split in SPLITS for shard in manifest.splits[split].shards}
    found = {shard.name: shard for shard in target.shards}
    indexed_at = (target.folder / FILE_NAME).stat().st_mtime
    changes = [f"{name} is {'gone' if name in known else 'new'}" for name in sorted(known.keys() ^ found.keys())]
    for name in sorted(known.keys() & found.keys()):
        path, info = found[name].path, known[name]
        if found[name].num_bytes != info.bytes:
            changes.append(f"{name} is {found[name].num_bytes} bytes long, not {info.bytes}")
        elif path.stat().st_mtime > indexed_at and file_crc(path) != info.crc32c:
            changes.append(f"{name} has other bytes")
    if changes:
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        made = f"the folder {target.folder}, which holds links" if target.is_linked else target.folder / FILE_NAME
        again = f"delete {made}, then give the same command again"
        raise DataError(
            f"shards of {target.folder} changed since they were indexed: {changes[0]}{more}",
            again if manifest.is_indexed else f"imagesprint verify {target.folder} lists all damage",
        )


def _describe(target: _Target, is_new: bool) -> IndexedVariant:
    manifest = Manifest.read(target.folder)
    first = enumerate(manifest.classes[:_SHOWN_CLASSES], manifest.first_label)
    return IndexedVariant(
        name=manifest.variant,
        is_linked=target.is_linked,
        is_new=is_new,
        images={split: manifest.splits[split].num_records for split in SPLITS},
        num_classes=len(manifest.classes),
        first_label=manifest.first_label,
        first_classes={label: " ".join(dict.fromkeys((entry.name, entry.text))) for label, entry in first},
    )
