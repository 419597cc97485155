"""`index`: makes TFRecords that another program wrote trainable, without a copy; the shards stay as they are."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.foreign.classes import NameList
from imagesprint.prepare.foreign.shards import ForeignShard, FoundShards, find_shards, is_split_word, link_to_validation
from imagesprint.prepare.foreign.variant import check_room, make_variant
from imagesprint.prepare.names import and_more, split_of
from imagesprint.prepare.workers import count_workers
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
    """A variant's folder, the folder whose shards belong to it, and those."""

    folder: Path
    source: Path
    found: FoundShards

    @property
    def shards(self) -> tuple[ForeignShard, ...]:
        return self.found.shards

    @property
    def is_linked(self) -> bool:
        return not (self.folder.exists() and self.folder.samefile(self.source))

    @property
    def is_there(self) -> bool:
        return (self.folder / FILE_NAME).exists()


def index_shards(
    path: str | Path, *, console: Console, index_dir: str | Path | None = None, workers: int | None = None
) -> Indexing:
    """Index the shards in `path`, in place where it or its folders are named as variants, else by links in `path`/full.

    With `index_dir`, that is the ROOT instead, and all of its variants are of links. Every record is read and its CRCs
    are checked, in `workers` processes (default: the cores that this process may use). A variant that is indexed
    already is left alone. Raises UsageError if there are no shards of both splits or nothing can be written, DataError
    for what is wrong in them or has changed since they were indexed.
    """
    begun = time.monotonic()
    path = Path(os.path.abspath(path))  # the folder's name counts, and what lies beside it
    root = None if index_dir is None else Path(os.path.abspath(index_dir))
    workers = count_workers(workers)
    with reading(path):
        targets = _find_targets(path, root, console)
        new = [target for target in targets if not target.is_there]
        lists = [NameList.find(_folders_of_list(target, path)) for target in new]
    for target in new:
        check_room(target.folder, target.is_linked)  # before hours of reading, not after
    for target in targets:
        if target not in new:
            _check_unchanged(target)
    for target, listed in zip(new, lists, strict=True):
        make_variant(target.folder, target.shards, listed, workers, target.is_linked, console)
    variants = tuple(_describe(target, target in new) for target in targets)
    seconds = time.monotonic() - begun
    images = sum(sum(variant.images.values()) for variant in variants if variant.is_new)
    return Indexing(targets[0].folder.parent, variants, seconds, images / seconds)


def _find_targets(path: Path, root: Path | None, console: Console) -> list[_Target]:
    """Return the variants to be of the shards in `path`, or one level above or below where those of both splits lie.

    Notes on the shards are shown. Raises UsageError for variants that cannot be, and where there is none.
    """
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}", "give the folder that holds the TFRecords")
    targets = _targets_in(path, root)
    if not _are_complete(targets):
        targets = _targets_near(path, root, console) or targets
    for note in (note for target in targets for note in target.found.notes):
        console.warn(note)
    targets = [target for target in targets if target.shards]
    if not targets:
        raise UsageError(
            f"there are no TFRecords of train and validation in {path}",
            "the split must be in the files' names, or their folders', as in train-00000-of-01024",
        )
    for target in targets:
        _check(target)
    return targets


def _targets_in(path: Path, root: Path | None) -> list[_Target]:
    """Return a target for a folder named as a variant, else for those in `path` and for shards that lie in none."""
    if is_variant_name(path.name):
        return [_Target((root or path.parent) / path.name, path, find_shards(path))]
    loose = _Target((root or path) / FULL, path, find_shards(path))
    return [loose] + [
        _Target((root or path) / entry.name, entry, find_shards(entry))
        for entry in sorted(path.iterdir())
        # Links in `path`/full are to the loose shards.
        if is_variant_name(entry.name) and entry.is_dir() and not (loose.shards and entry.name == FULL)
    ]


def _targets_near(path: Path, root: Path | None, console: Console) -> list[_Target]:
    """Return the targets of the one folder near `path` that holds both splits, if there is one, and say so.

    That is the folder above that of one split, or one below: tensorflow_datasets has a folder a version. Raises
    UsageError if there are several.
    """
    near = [path.parent] if split_of(path.name) else []
    if not is_split_word(path.name):
        near += [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not _is_passed_by(entry.name)]
    found = {place: targets for place in near if _are_complete(targets := _targets_in(place, root))}
    if len(found) > 1:
        raise UsageError(
            f"the TFRecords of both splits are not in {path} itself, but in {len(found)} of its folders",
            f"give one of them: {', '.join(map(str, found))}",
        )
    for place in found:
        console.warn(f"{path} does not hold the TFRecords of both splits, but {place} does: that is indexed")
    return next(iter(found.values()), [])


def _are_complete(targets: Sequence[_Target]) -> bool:
    return any(target.found.is_complete for target in targets)


def _is_passed_by(name: str) -> bool:
    """Return whether a folder is hidden, or unfinished, or one that `_targets_in` the folder above looks into."""
    return name.startswith(".") or "incomplete" in name or split_of(name) is not None or is_variant_name(name)


def _folders_of_list(target: _Target, given: Path) -> list[Path]:
    """Return where the names of the classes may lie: with the shards, beside the variants of a ROOT, or in `given`."""
    source = target.source
    above = [source.parent] if is_variant_name(source.name) or source.parent == given else []
    return list(dict.fromkeys([source, *(shard.path.parent for shard in target.shards), *above]))


def _check(target: _Target) -> None:
    """Raise UsageError for a variant that cannot be."""
    folder, shards = target.folder, target.shards
    for split in SPLITS:
        if not any(shard.split == split for shard in shards):
            hint = f"name them as in {split}-00000-of-00128, or put them into a folder {split}"
            if split == "validation" and target.found.tests:
                hint = (
                    f"test images are never taken for validation by themselves; to do so, give every one of its shards "
                    f"such a name: {link_to_validation(target.found.tests[0])}"
                )
            raise UsageError(f"there are no {split} shards beside {shards[0].path}", hint)
    if target.is_there:
        return
    if (folder.parent / PARTS).exists():
        raise UsageError(
            f"{folder.parent} is not finished: its `imagesprint prepare` was interrupted",
            "give the same prepare command again; shards that it makes need no `index`",
        )
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "move it away, or delete it")
    if target.is_linked and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty, and `index` has not made it", "move it away, or delete it")
    below = [shard.path for shard in shards if shard.path.parent != target.source]
    if below and not target.is_linked:
        raise UsageError(
            f"{below[0]} does not lie in {folder} itself",
            f"move the shards up, or give {folder.name} a name in letters",
        )


def _check_unchanged(target: _Target) -> None:
    """Raise DataError if the shards are not those that were indexed, as far as sizes and times tell."""
    manifest = Manifest.read(target.folder)
    if target.is_linked and not manifest.is_indexed:
        raise UsageError(
            f"{target.folder} was prepared from images: it is none of the shards in {target.source}",
            "give --index-dir DIR, another folder",
        )
    known = {shard.name: shard for split in SPLITS for shard in manifest.splits[split].shards}
    found = {shard.name: shard for shard in target.shards}
    indexed_at = (target.folder / FILE_NAME).stat().st_mtime
    changes = [f"{name} is {'gone' if name in known else 'new'}" for name in sorted(known.keys() ^ found.keys())]
    for name in sorted(known.keys() & found.keys()):
        path, info = found[name].path, known[name]
        link = target.folder / name
        if target.is_linked and not (link.exists() and link.samefile(path)):
            changes.append(f"{link} is no link to {path}")
        elif found[name].num_bytes != info.bytes:
            changes.append(f"{name} is {found[name].num_bytes} bytes long, not {info.bytes}")
        elif path.stat().st_mtime > indexed_at and file_crc(path) != info.crc32c:
            changes.append(f"{name} has other bytes")
    if changes:
        made = f"the folder {target.folder}, which holds links" if target.is_linked else target.folder / FILE_NAME
        other = ", or give --index-dir DIR, another folder" if target.is_linked else ""
        again = f"delete {made}, then give the same command again{other}"
        raise DataError(
            f"shards of {target.folder} changed since they were indexed: {changes[0]}{and_more(changes)}",
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
