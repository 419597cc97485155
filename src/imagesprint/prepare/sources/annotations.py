"""Bounding boxes as ImageNet annotates them: one XML file an image, in the manner of Pascal VOC."""

import re
from collections.abc import Callable, Iterable
from xml.etree import ElementTree

from imagesprint.errors import DataError

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
