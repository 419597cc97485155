"""ImageNet (ILSVRC 2012) in the official files, in one folder; nothing is unpacked to disk.

    ILSVRC2012_img_train.tar          a tar of one tar a synset
    ILSVRC2012_img_val.tar            may be missing: then --val-fraction splits the training images
    ILSVRC2012_devkit_t12.tar.gz      the classes' words and the validation labels; needed for ILSVRC2012_img_val.tar
    ILSVRC2012_bbox_train_v2.tar.gz   bounding boxes, which may be missing
    ILSVRC2012_bbox_val_v3.tgz

Classes are numbered in the sorted order of synsets; the development kit's own ids have another order. And what every
download of ImageNet shares: how synsets become classes (`to_classes`), and its boxes (`collect_boxes`).
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from imagesprint.errors import DataError, UsageError, needing
from imagesprint.images.finding import visible
from imagesprint.prepare.names import and_more, some
from imagesprint.prepare.sources.folders import sole_folder
from imagesprint.prepare.sources.source import Box, Listing, SourceImage, check_every_class
from imagesprint.prepare.sources.tars import Member, TarSource, unpack
from imagesprint.records.manifest import ClassInfo

Boxes = dict[str, tuple[Box, ...]]  # by the name of the image without its extension; none for an image without

_TRAIN = "ILSVRC2012_img_train.tar"
_VALIDATION = "ILSVRC2012_img_val.tar"
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_TRAIN_BOXES = "ILSVRC2012_bbox_train_v2.tar.gz"
_VALIDATION_BOXES = "ILSVRC2012_bbox_val_v3.tgz"
_FILES = (_TRAIN, _VALIDATION, _DEVKIT, _TRAIN_BOXES, _VALIDATION_BOXES)
_META = "data/meta.mat"  # in the development kit
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_READERS = 8  # threads
_SYNSET = re.compile(r"n[0-9]+")
_COMPARE = "are both of the same download, and complete? Compare their checksums"
_DEVKIT_AGAIN = "download the development kit again and compare its checksum"


class IlsvrcTars(TarSource):
    """The official files in the folder `path`, or in one folder below what is given."""

    kind = "ilsvrc"
    form = f"ImageNet's official files: {_TRAIN}, {_VALIDATION}, {_DEVKIT}"
    files = tuple(f"*{name}" for name in _FILES)

    def __init__(self, path: Path) -> None:
        super().__init__(_find_archives(path) or path)

    @staticmethod
    def fits(path: Path) -> bool:
        return _find_archives(path) is not None

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

    def _devkit(self, notes: list[str]) -> "_Devkit | None":
        path = self.path / _DEVKIT
        if path.exists():
            return _Devkit.read(path)
        if (self.path / _VALIDATION).exists():
            raise UsageError(
                f"there is no {_DEVKIT} in {self.path}",
                f"it has the labels of {_VALIDATION}; to do without both, move that away and give --val-fraction",
            )
        notes.append(f"there is no {_DEVKIT}, so classes are described by their synsets alone")
        return None

    def _train_samples(
        self, inner_tars: dict[str, Member], labels: dict[str, int], notes: list[str]
    ) -> list[SourceImage]:
        def synset_of(stem: str) -> str | None:
            synset = stem.partition("_")[0]
            return synset if synset in labels else None

        boxes = self._boxes(_TRAIN_BOXES, synset_of, notes)

        def samples_of(synset: str) -> list[SourceImage]:
            inner = inner_tars[synset]
            members = self._tars.inner_members(_TRAIN, inner)
            return [
                member.image(f"{_TRAIN}/{inner.path}", labels[synset], boxes.pop(member.stem, ())) for member in members
            ]

        # Each image costs a read of its header somewhere in 138 GB: a disk or network answers several at a time.
        with ThreadPoolExecutor(_READERS) as readers:
            return [sample for samples in readers.map(samples_of, labels) for sample in samples]

    def _validation_samples(
        self, ground_truth: list[str], labels: dict[str, int], notes: list[str]
    ) -> list[SourceImage]:
        members = sorted(self._tars.members(_VALIDATION), key=lambda member: member.name)
        if len(members) != len(ground_truth):
            raise DataError(
                f"{_VALIDATION} holds {len(members)} images, but {_DEVKIT} has labels for {len(ground_truth)}", _COMPARE
            )
        synsets = {member.stem: synset for member, synset in zip(members, ground_truth, strict=True)}
        boxes = self._boxes(_VALIDATION_BOXES, synsets.get, notes)
        return [
            member.image(_VALIDATION, labels[synset], boxes.get(member.stem, ()))
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


@dataclass(frozen=True)
class _Devkit:
    """The words of each synset that is a class; the synsets of the validation images in the order of their names."""

    words: dict[str, str]
    ground_truth: list[str]

    @classmethod
    def read(cls, path: Path) -> "_Devkit":
        """Read the archive. Raises DataError if it is damaged or lacks a file, OSError."""
        wanted = {
            name: (where, data)
            for where, data in unpack(path)
            for name in (_META, _GROUND_TRUTH)
            if where.endswith(f"/{name}")
        }
        for name in (_META, _GROUND_TRUTH):
            if name not in wanted:
                raise DataError(f"{path} holds no {name}", "download it again and compare its checksum")
        classes = _read_meta(*wanted[_META])
        where, data = wanted[_GROUND_TRUTH]
        synsets = []
        for number, line in enumerate(data.decode("utf-8", "replace").split(), 1):
            if not line.isdecimal() or int(line) not in classes:
                raise DataError(
                    f"line {number} of {where} is {line!r}, which is the id of no class in meta.mat", _DEVKIT_AGAIN
                )
            synsets.append(classes[int(line)][0])
        return cls(dict(classes.values()), synsets)


def _read_meta(where: str, data: bytes) -> dict[int, tuple[str, str]]:
    """Return synset and words of the classes, by their ILSVRC2012_ID."""
    with needing("ilsvrc"):
        from scipy.io import loadmat  # slow to import

    try:
        synsets: Any = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        return {
            int(entry["ILSVRC2012_ID"]): (str(entry["WNID"]), str(entry["words"]))
            for entry in synsets
            if int(entry["num_children"]) == 0  # the others are above the classes in WordNet's tree
        }
    except Exception as error:  # of many kinds: scipy parses binary data here
        raise DataError(f"{where} cannot be understood: {error!r}", _DEVKIT_AGAIN) from error


def to_classes(
    synsets: Iterable[str], words: Mapping[str, str], images: object, word_list: object
) -> tuple[ClassInfo, ...]:
    """Return the classes in the order of their labels.

    Raises DataError if the `synsets` that have a place in `images` are not those that have `words` in `word_list`.
    """
    found = sorted(synsets)
    for missing, has, lacks in (
        (sorted(set(words) - set(found)), word_list, images),
        (sorted(set(found) - set(words)), images, word_list),
    ):
        if missing:
            raise DataError(f"synset {missing[0]} is in {has} but not in {lacks}{and_more(missing)}", _COMPARE)
    return tuple(ClassInfo(synset, synset=synset, text=words[synset]) for synset in found)


def collect_boxes(documents: Iterable[tuple[str, bytes]], synset_of: Callable[[str], str | None]) -> Boxes:
    """Return the boxes in XML documents, given as (where, bytes); the last part of `where` is the image's name, .xml.

    `synset_of` tells the class of an image, None for one that is not wanted. Boxes of another class are left out.
    Raises DataError for a document that cannot be understood.
    """
    found: Boxes = {}
    for where, document in documents:
        stem, _, extension = where.rpartition("/")[2].rpartition(".")
        synset = synset_of(stem) if extension == "xml" else None
        if synset is not None and (boxes := parse_boxes(document, synset, where)):
            found[stem] = boxes
    return found


def parse_boxes(document: bytes, synset: str, where: str) -> tuple[Box, ...]:
    """Return the boxes of class `synset` in an XML document, scaled by the image size it states.

    Objects that are named in words count as of that class. Boxes are ordered (ymin < ymax, xmin < xmax) and clipped to
    the image; of what is left empty there is none. Raises DataError that names `where` if it cannot be understood.
    """
    try:
        root = ElementTree.fromstring(document)
        width, height = (_number(root, f"size/{side}") for side in ("width", "height"))
        if width <= 0 or height <= 0:
            raise ValueError(f"the image size is {width:g}×{height:g}")
        boxes = [_box(entry, width, height) for entry in root.iterfind("object") if _is_of(entry, synset)]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"the boxes in {where} cannot be read: {error}", "download the annotations again, or remove this file"
        ) from error
    return tuple(box for box in boxes if box[0] < box[2] and box[1] < box[3])


def _is_of(entry: ElementTree.Element, synset: str) -> bool:
    """Return whether an object is of class `synset`, or of no class that can be told."""
    name = _text(entry, "name").strip()
    # ImageNet's dogs are named in words, such as Scottish_deerhound: only another synset is another class.
    return name == synset or not _SYNSET.fullmatch(name)


def _box(entry: ElementTree.Element, width: float, height: float) -> Box:
    # Some files have the sides exchanged, and boxes that reach beyond the image.
    left, right = sorted(_number(entry, f"bndbox/{side}") for side in ("xmin", "xmax"))
    top, bottom = sorted(_number(entry, f"bndbox/{side}") for side in ("ymin", "ymax"))
    return _clip(top / height), _clip(left / width), _clip(bottom / height), _clip(right / width)


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _number(element: ElementTree.Element, path: str) -> float:
    value = float(_text(element, path))
    if value - value != 0:
        raise ValueError(f"{path} is {value}")
    return value


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path}")
    return text
