"""dataset.json: what a variant's folder holds, with checksums, and how it was made."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesprint.errors import RecordError, UsageError
from imagesprint.files import write_text

FILE_NAME = "dataset.json"
FORMAT_VERSION = 1
SPLITS = ("train", "validation")


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
    """What dataset.json says. `made_by` is the plan it was made from, in plain types."""

    variant: str
    classes: tuple[ClassInfo, ...]
    splits: dict[str, SplitInfo]
    made_by: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write `folder`/dataset.json, atomically. Raises OSError."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        write_text(folder / FILE_NAME, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read `folder`/dataset.json. Raises RecordError if it is damaged or made by a newer imagesprint."""
        path = folder / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise RecordError(
                    f"{path} has format version {version!r}; this imagesprint reads version {FORMAT_VERSION}",
                    "install the imagesprint that prepared it, or prepare it again",
                )
            return cls(
                variant=str(content["variant"]),
                classes=tuple(ClassInfo(**entry) for entry in content["classes"]),
                splits={split: _to_split(content["splits"][split]) for split in SPLITS},
                made_by=dict(content["made_by"]),
            )
        except OSError as error:
            raise RecordError(f"cannot read {path}: {error.strerror}", f"imagesprint verify {folder}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{path} is damaged: {error!r}", f"delete the folder {folder} and prepare it again"
            ) from error

    def fingerprint(self, split: str) -> str:
        """Return 64 hex digits that are the same for the same classes and the same bytes in `split`."""
        content = [[dataclasses.astuple(entry) for entry in self.classes], dataclasses.astuple(self.splits[split])]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def split_name(split: str) -> str:
    """Return "train" or "validation" ("val" is accepted). Raises UsageError for any other."""
    name = "validation" if split == "val" else split
    if name not in SPLITS:
        raise UsageError(f"there is no split {split!r}", "the splits are train and validation")
    return name


def _to_split(content: dict[str, Any]) -> SplitInfo:
    shards = tuple(ShardInfo(**shard) for shard in content["shards"])
    info = SplitInfo(**{**content, "shards": shards})
    if info.num_records != sum(shard.num_records for shard in shards):
        raise ValueError(f"{info.num_records} records in all, but its shards have others")
    return info
