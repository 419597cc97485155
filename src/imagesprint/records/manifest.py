"""dataset.json: what a variant's folder holds, with checksums, and how it was made."""

import dataclasses
import hashlib
import json
import os
import reprlib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from imagesprint.errors import RecordError, UsageError
from imagesprint.files import write_text
from imagesprint.records.index import Index
from imagesprint.records.tfrecord import file_crc
from imagesprint.storage.url import Place, Url

FILE_NAME = "dataset.json"
FORMAT_VERSION = 1
IMAGE_FORMATS = ("jpeg", "raw")
FIRST_LABEL = 1  # in image/class/label, as the Inception guide has it
SPLITS = ("train", "validation")
INDEXED = {"source": {"kind": "tfrecords"}}  # the plan of shards that others wrote and `imagesprint index` found

_T = TypeVar("_T")


@dataclass(frozen=True)
class ClassInfo:
    """A class: `name` is what people see, `synset` the WordNet id where there is one, `text` words that describe it."""

    name: str
    synset: str
    text: str


@dataclass(frozen=True)
class ShardInfo:
    """A shard: its file name, its size, its records and the CRC-32C of the whole file."""

    name: str
    bytes: int
    num_records: int
    crc32c: int


@dataclass(frozen=True)
class SplitInfo:
    """A split: `num_classes_present` of the classes have a record in it; `index` is the name of the index file."""

    num_records: int
    num_classes_present: int
    index: str
    index_crc32c: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class Manifest:
    """What dataset.json says.

    `image_format` is what image/encoded holds: "jpeg" (or, in shards that others wrote, any file Pillow reads), or
    "raw", uint8 pixels [height, width, 3]. `first_label` is what class 0 is called in image/class/label: 1, as the
    Inception guide has it, or 0 in shards that others wrote. `made_by` is the plan it was made from, in plain types.
    """

    variant: str
    image_format: str
    first_label: int
    classes: tuple[ClassInfo, ...]
    splits: dict[str, SplitInfo]
    made_by: dict[str, Any]

    @property
    def is_indexed(self) -> bool:
        """Whether others wrote the shards: records may then lack what this package writes into them."""
        return self.made_by == INDEXED

    def write(self, folder: Path) -> None:
        """Write `folder`/dataset.json, atomically. Raises FileError."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        write_text(folder / FILE_NAME, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path, shown: Place | None = None) -> "Manifest":
        """Read `folder`/dataset.json.

        Raises RecordError if it is damaged, made by a newer imagesprint, or of a variant other than the folder's name;
        it names `shown` where `folder` is a copy.
        """
        place = shown or folder
        try:
            data = (folder / FILE_NAME).read_bytes()
        except OSError as error:
            raise RecordError(
                f"cannot read {place / FILE_NAME}: {error.strerror}", f"imagesprint verify {place}"
            ) from error
        return cls.parse(data, place)

    @classmethod
    def parse(cls, data: bytes, folder: Place) -> "Manifest":
        """Return what `data`, the content of `folder`/dataset.json, says. Raises RecordError as `read` does."""
        path = folder / FILE_NAME
        try:
            content = json.loads(data.decode())
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise RecordError(
                    f"{path} has format version {version!r}; this imagesprint reads version {FORMAT_VERSION}",
                    "install the imagesprint that prepared it, or prepare it again",
                )
            classes = tuple(from_plain(ClassInfo, entry) for entry in content["classes"])
            splits = {split: _to_split(content["splits"][split]) for split in SPLITS}
            manifest = from_plain(cls, {**content, "classes": classes, "splits": splits})
            if manifest.image_format not in IMAGE_FORMATS or manifest.first_label not in (0, 1):
                raise ValueError(f"image format {manifest.image_format!r}, first label {manifest.first_label}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(
                f"{path} is damaged: {error!r}", f"delete the folder {folder} and prepare it again"
            ) from error
        # Not of what a link leads to.
        name = folder.name if isinstance(folder, Url) else os.path.basename(os.path.abspath(folder))
        if manifest.variant != name:
            raise RecordError(
                f"{path} is of variant {manifest.variant!r}, but its folder is named {name!r}",
                f"name the folder {manifest.variant!r} again, or prepare it anew",
            )
        return manifest

    def fingerprint(self, split: str) -> str:
        """Return 64 hex digits that are the same for the same classes and the same bytes in `split`."""
        content = [[dataclasses.astuple(entry) for entry in self.classes], dataclasses.astuple(self.splits[split])]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_split(folder: Path, split: str, index: Index, shards: tuple[ShardInfo, ...]) -> SplitInfo:
    """Write the index of a split into `folder`; return what dataset.json says of the split. Raises FileError."""
    path = folder / f"{split}.index.npz"
    index.write(path)
    return SplitInfo(len(index), len(np.unique(index.label)), path.name, file_crc(path), shards)


def split_name(split: str) -> str:
    """Return "train" or "validation" ("val" is accepted). Raises UsageError for any other."""
    name = "validation" if split == "val" else split
    if name not in SPLITS:
        raise UsageError(f"there is no split {split!r}", "the splits are train and validation")
    return name


def from_plain(table: type[_T], content: Any) -> _T:
    """Return the dataclass `table` made from `content`, a JSON object with exactly its fields, of their types.

    Raises ValueError for anything else; numbers are not negative.
    """
    hints = typing.get_type_hints(table)
    if not isinstance(content, dict) or content.keys() != hints.keys():
        raise ValueError(f"{reprlib.repr(content)} is no {table.__name__}")
    for name, hint in hints.items():
        value = content[name]
        if type(value) is not (typing.get_origin(hint) or hint) or (hint is int and value < 0):
            raise ValueError(f"{name} is {reprlib.repr(value)}")
    return table(**content)


def _to_split(content: Any) -> SplitInfo:
    shards = tuple(from_plain(ShardInfo, shard) for shard in content["shards"])
    info = from_plain(SplitInfo, {**content, "shards": shards})
    for name in (info.index, *(shard.name for shard in shards)):
        if name in ("", ".", "..") or "/" in name or b"\0" in os.fsencode(name):
            raise ValueError(f"{reprlib.repr(name)} is no file name")
    if info.num_records != sum(shard.num_records for shard in shards):
        raise ValueError(f"{info.num_records} records in all, but its shards have others")
    return info
