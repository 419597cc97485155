"""`verify`: every checksum of every record, and whether shards, index, dataset.json and labels agree."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imagesprint.console import Console
from imagesprint.errors import RecordError
from imagesprint.progress import Progress
from imagesprint.records.dataset import is_variant_name, open_root, reading, variant_size
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, SPLITS, Manifest
from imagesprint.records.shard_check import CheckImage, Problem, ShardCheck
from imagesprint.records.shared_content import Digests, SharedContent, find_shared
from imagesprint.records.tfrecord import file_crc


@dataclass(frozen=True)
class SplitCounts:
    """What the index of one split of one variant has; `class_counts` has an entry for every class."""

    variant: str
    split: str
    num_records: int
    num_shards: int
    num_bytes: int
    class_counts: dict[str, int]


@dataclass
class Verification:
    """What was found. `shared_content` is of the largest variant: the others are made from the same images."""

    path: Path
    splits: list[SplitCounts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    shared_content: list[SharedContent] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems and not self.shared_content


def verify(path: str | Path, console: Console, check_image: CheckImage | None = None) -> Verification:
    """Check a ROOT or the folder of one variant; with `check_image`, decode every image too.

    Returns all problems, not only the first. Raises UsageError if there is no prepared dataset at `path`, DataError if
    it cannot be read.
    """
    path = Path(path)
    found = Verification(path)
    with reading(path):
        folders = _variant_folders(path)
    manifests: dict[Path, Manifest] = {}
    for folder in folders:
        try:
            manifests[folder] = Manifest.read(folder)
        except RecordError as error:
            found.problems.append(Problem(folder.name, "", "", None, error.what))
    progress = Progress(console, "verifying")
    progress.begin(sum(manifest.splits[split].num_records for manifest in manifests.values() for split in SPLITS), 0)
    labels: dict[str, dict[str, list[int]]] = {split: {} for split in SPLITS}
    for number, (folder, manifest) in enumerate(manifests.items()):
        check = _VariantCheck(folder, manifest, check_image, number == 0, progress, found)
        for split, index in check.run().items():
            labels[split][folder.name] = index.label.tolist()
    progress.end()
    classes = {folder.name: manifest.classes for folder, manifest in manifests.items()}
    found.problems += _unlike("", classes, "its classes are not those of variant {}: labels do not agree")
    for split, of_variants in labels.items():
        found.problems += _unlike(split, of_variants, "its labels are not those of variant {}: sample ids do not agree")
    return found


def _unlike(split: str, of_variants: Mapping[str, object], what: str) -> list[Problem]:
    """Return a problem for every variant whose value is not that of the first, whose name `what` has a place for."""
    first = next(iter(of_variants), "")
    return [
        Problem(variant, split, "", None, what.format(first))
        for variant, value in of_variants.items()
        if value != of_variants[first]
    ]


def _variant_folders(path: Path) -> list[Path]:
    if (path / FILE_NAME).is_file():
        return [path]
    if not path.is_dir() or not any(is_variant_name(entry.parent.name) for entry in path.glob(f"*/{FILE_NAME}")):
        open_root(path)  # raises the UsageError that says what is there instead
    folders = [entry for entry in path.iterdir() if is_variant_name(entry.name) and entry.is_dir()]
    return sorted(folders, key=lambda folder: variant_size(folder.name), reverse=True)


class _VariantCheck:
    """The check of one variant, which adds to `found` what there is and what is wrong with it."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        check_image: CheckImage | None,
        with_digests: bool,
        progress: Progress,
        found: Verification,
    ) -> None:
        self._folder, self._manifest, self._check_image = folder, manifest, check_image
        self._digests = {split: Digests() for split in SPLITS} if with_digests else None
        self._progress, self._found = progress, found

    def run(self) -> dict[str, Index]:
        """Return the indexes that are sound, by split."""
        indexes: dict[str, Index] = {}
        for split in SPLITS:
            index = self._read_index(split)
            if index is not None:
                indexes[split] = index
                self._count(split, index)
            self._check_shards(split, index)
        if self._digests is not None and len(indexes) == len(SPLITS):
            try:
                self._found.shared_content = find_shared(self._folder, indexes, self._digests)
            except RecordError as error:
                self._report("", error.what)
        return indexes

    def _report(self, split: str, what: str) -> None:
        self._found.problems.append(Problem(self._manifest.variant, split, "", None, what))

    def _read_index(self, split: str) -> Index | None:
        info = self._manifest.splits[split]
        try:
            index = Index.read(self._folder / info.index)
            if file_crc(self._folder / info.index) != info.index_crc32c:
                self._report(split, f"index {info.index} does not match its checksum in {FILE_NAME}")
        except RecordError as error:
            self._report(split, error.what)
            return None
        if index.shard_names != tuple(shard.name for shard in info.shards):
            self._report(split, f"index {info.index} has other shards than {FILE_NAME}")
            return None
        return index

    def _count(self, split: str, index: Index) -> None:
        manifest, info = self._manifest, self._manifest.splits[split]
        # A label that is none is reported with its record; counting up to it could take all memory.
        known = index.label[index.label < len(manifest.classes)]
        counts = np.bincount(known, minlength=len(manifest.classes)).tolist()
        self._found.splits.append(
            SplitCounts(
                variant=manifest.variant,
                split=split,
                num_records=len(index),
                num_shards=len(index.shard_names),
                num_bytes=int(index.shard_sizes.sum()),
                class_counts={entry.name: count for entry, count in zip(manifest.classes, counts, strict=True)},
            )
        )
        if len(index) != info.num_records:
            self._report(split, f"index {info.index} has {len(index)} records, {FILE_NAME} has {info.num_records}")
        present = len(np.unique(index.label))
        if present != info.num_classes_present:
            self._report(split, f"index {info.index} has {present} classes, {FILE_NAME} has {info.num_classes_present}")

    def _check_shards(self, split: str, index: Index | None) -> None:
        with_digests = self._digests is not None
        checks = (
            ShardCheck(self._folder, self._manifest, split, number, index, self._check_image, with_digests)
            for number in range(len(self._manifest.splits[split].shards))
        )
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for check in pool.map(ShardCheck.run, checks):
                self._found.problems += check.problems
                self._progress.add(check.info.num_records)
                if self._digests is not None:
                    self._digests[split].extend(check.sample_ids, check.digests)
