"""What every download of ImageNet (ILSVRC 2012) shares: classes, boxes, and the devkit's words and labels."""

import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from imagesprint.errors import DataError, needing
from imagesprint.prepare.sources.tars import unpack
from imagesprint.records.manifest import ClassInfo


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
            raise DataError(
                f"synset {missing[0]} is in {has} but not in {lacks}"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                "are both of the same download, and complete? Compare their checksums",
            )
    return tuple(ClassInfo(synset, synset=synset, text=words[synset]) for synset in found)


Box = tuple[float, float, float, float]  # ymin, xmin, ymax, xmax, each in 0..1
Boxes = dict[str, tuple[Box, ...]]  # by the name of the image without its extension; none for an image without

_SYNSET = re.compile(r"n[0-9]+")


def collect_boxes(documents: Iterable[tuple[str, bytes]], synset_of: Callable[[str], str | None]) -> Boxes:
    """Return the boxes in XML documents, given as (where, bytes); the last part of `where` is the image's name, .xml.

    `synset_of` tells the class of an image, None for one that is not wanted. Boxes of another class are left out.
    Raises DataError for a document that cannot be understood.
    """
    found: Boxes = {}
    for where, document in documents:
        stem, _, extension = where.rpartition("/")[2].rpartition(".")
        synset = synset_of(stem) if extension == "xml" else None
        if synset is None:
            continue
        boxes = parse_boxes(document, synset, where)
        if boxes:
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


_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class Devkit:
    """`words` describe each synset that is a class; `ground_truth` has the synsets of the validation images.

    These are in the order of the images' names.
    """

    words: dict[str, str]
    ground_truth: list[str]

    @classmethod
    def read(cls, path: Path) -> "Devkit":
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
        return cls(dict(classes.values()), _read_ground_truth(*wanted[_GROUND_TRUTH], classes))


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
        raise DataError(
            f"{where} cannot be understood: {error!r}", "download the development kit again and compare its checksum"
        ) from error


def _read_ground_truth(where: str, data: bytes, classes: dict[int, tuple[str, str]]) -> list[str]:
    synsets = []
    for number, line in enumerate(data.decode("utf-8", "replace").split(), 1):
        if not line.isdecimal() or int(line) not in classes:
            raise DataError(
                f"line {number} of {where} is {line!r}, which is the id of no class in meta.mat",
                "download the development kit again and compare its checksum",
            )
        synsets.append(classes[int(line)][0])
    return synsets
