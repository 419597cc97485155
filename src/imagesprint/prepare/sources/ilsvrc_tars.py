"""ImageNet (ILSVRC 2012) in the official files, in one folder; nothing is unpacked to disk.

    ILSVRC2012_img_train.tar          a tar of one tar a synset
    ILSVRC2012_img_val.tar            may be missing: then --val-fraction splits the training images
    ILSVRC2012_devkit_t12.tar.gz      the classes' words and the validation labels; needed for ILSVRC2012_img_val.tar
    ILSVRC2012_bbox_train_v2.tar.gz   bounding boxes, which may be missing
    ILSVRC2012_bbox_val_v3.tgz

Classes are numbered in the sorted order of synsets; the development kit's own ids have another order.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imagesprint.errors import DataError, UsageError
from imagesprint.images.finding import visible
from imagesprint.prepare.sources.downloads import some
from imagesprint.prepare.sources.folders import reading_source, sole_folder
from imagesprint.prepare.sources.ilsvrc import Boxes, Devkit, collect_boxes, to_classes
from imagesprint.prepare.sources.source import Listing, Sample, check_every_class
from imagesprint.prepare.sources.tars import Member, Tars, unpack

_TRAIN = "ILSVRC2012_img_train.tar"
_VALIDATION = "ILSVRC2012_img_val.tar"
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_TRAIN_BOXES = "ILSVRC2012_bbox_train_v2.tar.gz"
_VALIDATION_BOXES = "ILSVRC2012_bbox_val_v3.tgz"
_FILES = (_TRAIN, _VALIDATION, _DEVKIT, _TRAIN_BOXES, _VALIDATION_BOXES)
_READERS = 8  # threads


class IlsvrcTars:
    """The official files in the folder `path`."""

    kind: str = "ilsvrc"
    form: str = f"ImageNet's official files: {_TRAIN}, {_VALIDATION}, {_DEVKIT}"

    def __init__(self, path: Path) -> None:
        self.path = _find_archives(path) or path
        self._tars = Tars(self.path)

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether one of the archives of images is there, or in one folder below."""
        return _find_archives(path) is not None

    def scan(self) -> Listing:
        """Return all samples; without "validation" where that archive is missing.

        Raises UsageError for a missing archive that is needed, DataError for a damaged one or for archives that do not
        fit one another.
        """
        with reading_source():
            return self._scan()

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample. Raises DataError if its archive cannot be read or has changed."""
        return self._tars.read(sample)

    def _scan(self) -> Listing:
        if not (self.path / _TRAIN).exists():
            raise UsageError(f"there is no {_TRAIN} in {self.path}", f"put it beside {_VALIDATION}")
        notes: list[str] = []
        inner_tars = self._inner_tars()
        devkit = self._devkit(notes)
        words = devkit.words if devkit else {synset: synset for synset in inner_tars}
        classes = to_classes(inner_tars, words, _TRAIN, _DEVKIT)
        labels = {entry.synset: label for label, entry in enumerate(classes)}
        splits = {}
        # The small archive first: what is wrong with it shows at once.
        if devkit and (self.path / _VALIDATION).exists():
            splits["validation"] = self._validation_samples(devkit.ground_truth, labels, notes)
        splits["train"] = self._train_samples(inner_tars, labels, notes)
        check_every_class(list(labels), splits["train"], _TRAIN)
        others = [name for names in visible(self.path) for name in names if name not in _FILES]
        notes += [f"of {self.path}, {some(others)} {'are' if len(others) > 1 else 'is'} left out"] if others else []
        return Listing(classes, splits, (*notes, *self._tars.notes))

    def _inner_tars(self) -> dict[str, Member]:
        """Return the tar of each synset."""
        members = self._tars.members(_TRAIN)
        for member in members:
            if not member.name.endswith(".tar"):
                raise DataError(
                    f"{_TRAIN} holds {member.path}, which is not the tar of a synset",
                    "give the archive as it was downloaded; a folder of class folders is a source too",
                )
        if not members:
            raise DataError(f"{_TRAIN} is an empty tar", "download it again and compare its checksum")
        return {member.stem: member for member in members}

    def _devkit(self, notes: list[str]) -> Devkit | None:
        path = self.path / _DEVKIT
        if path.exists():
            return Devkit.read(path)
        if (self.path / _VALIDATION).exists():
            raise UsageError(
                f"there is no {_DEVKIT} in {self.path}",
                f"it has the labels of {_VALIDATION}; to do without both, move that away and give --val-fraction",
            )
        notes.append(f"there is no {_DEVKIT}, so classes are described by their synsets alone")
        return None

    def _train_samples(self, inner_tars: dict[str, Member], labels: dict[str, int], notes: list[str]) -> list[Sample]:
        def synset_of(stem: str) -> str | None:
            synset = stem.partition("_")[0]
            return synset if synset in labels else None

        boxes = self._boxes(_TRAIN_BOXES, synset_of, notes)

        def samples_of(synset: str) -> list[Sample]:
            inner, label = inner_tars[synset], labels[synset]
            return [
                Sample(
                    f"{_TRAIN}/{inner.path}/{member.path}",
                    label,
                    member.num_bytes,
                    member.offset,
                    boxes.pop(member.stem, ()),
                )
                for member in self._tars.inner_members(_TRAIN, inner)
            ]

        # Each image costs a read of its header somewhere in 138 GB: a disk or network answers several at a time.
        with ThreadPoolExecutor(_READERS) as readers:
            return [sample for samples in readers.map(samples_of, labels) for sample in samples]

    def _validation_samples(self, ground_truth: list[str], labels: dict[str, int], notes: list[str]) -> list[Sample]:
        members = sorted(self._tars.members(_VALIDATION), key=lambda member: member.name)
        if len(members) != len(ground_truth):
            raise DataError(
                f"{_VALIDATION} holds {len(members)} images, but {_DEVKIT} has labels for {len(ground_truth)}",
                "are both of the same download, and complete? Compare their checksums",
            )
        synsets = {member.stem: synset for member, synset in zip(members, ground_truth, strict=True)}
        boxes = self._boxes(_VALIDATION_BOXES, synsets.get, notes)
        return [
            Sample(
                f"{_VALIDATION}/{member.path}",
                labels[synset],
                member.num_bytes,
                member.offset,
                boxes.get(member.stem, ()),
            )
            for member, synset in zip(members, ground_truth, strict=True)
        ]

    def _boxes(self, archive: str, synset_of: Callable[[str], str | None], notes: list[str]) -> Boxes:
        path = self.path / archive
        if not path.exists():
            notes.append(f"there is no {archive}, so its images have no bounding boxes")
            return {}
        return collect_boxes(unpack(path), synset_of)


def _find_archives(path: Path) -> Path | None:
    return path if _holds_archives(path) else sole_folder(path, _holds_archives)


def _holds_archives(path: Path) -> bool:
    return os.path.exists(path / _TRAIN) or os.path.exists(path / _VALIDATION)  # False where it may not be looked at
