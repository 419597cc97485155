"""The index of a split: where each record lies and what is in it, so that any record is a single read.

A .npz file (a zip of .npy arrays, not compressed) with fixed little-endian types; the same rows give the same bytes.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imagesprint.errors import FILE_HINT, RecordError
from imagesprint.files import write_atomically
from imagesprint.records.tfrecord import FRAME_BYTES
from imagesprint.storage.url import Place

# The layout, declared once: every array of the file, its type, and what one row is.
_PER_RECORD = {
    "shard": "<i4",  # number of the shard
    "offset": "<i8",  # of the record within the shard, in bytes
    "length": "<i4",  # of the payload
    "encoded_offset": "<i4",  # of image/encoded within the payload
    "encoded_length": "<i4",
    "label": "<i4",  # from 0
    "height": "<i4",  # of the stored image, in pixels
    "width": "<i4",
}
_BOX_START, _BOXES = "box_start", "boxes"  # int64 [N + 1], float32 [K, 4]: record i has boxes [start[i], start[i + 1])
_SHARD_NAMES, _SHARD_SIZES = "shard_names", "shard_sizes"  # UTF-8 [S], int64 [S] in bytes
_OTHERS = {_BOX_START: "<i8", _BOXES: "<f4", _SHARD_SIZES: "<i8"}


@dataclass(frozen=True, eq=False)
class Index:
    """One row a record, in the order of sample ids; the arrays are as the layout above has them."""

    shard_names: tuple[str, ...]
    shard_sizes: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]
    encoded_offset: npt.NDArray[np.int32]
    encoded_length: npt.NDArray[np.int32]
    label: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    box_start: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def write(self, path: Path) -> None:
        """Write the index to `path`, atomically. Raises FileError."""
        arrays = {name: getattr(self, name).astype(dtype) for name, dtype in (_PER_RECORD | _OTHERS).items()}
        arrays[_SHARD_NAMES] = np.array([name.encode() for name in self.shard_names])
        content = _archive(arrays)
        write_atomically(path, lambda file: file.write(content))

    @classmethod
    def read(cls, path: Path, shown: Place | None = None) -> "Index":
        """Read the index at `path`. Raises RecordError if it is missing, damaged or inconsistent, which names `shown`
        where `path` is a copy.
        """
        place = shown or path
        try:
            content = path.read_bytes()  # whole: zipfile calls a file damaged that its disk does not give
        except FileNotFoundError as error:
            raise RecordError(f"index {place} is missing", _hint(place)) from error
        except OSError as error:
            raise RecordError(f"cannot read index {path}: {error.strerror}", FILE_HINT) from error
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in (*_PER_RECORD, *_OTHERS, _SHARD_NAMES)}
        except Exception as error:  # a damaged zip or header makes zipfile and numpy raise nearly anything
            raise RecordError(f"index {place} is damaged: {error}", _hint(place)) from error
        problem = _find_misfit(arrays) or _find_impossible(arrays)
        if problem:
            raise RecordError(f"index {place} is damaged: {problem}", _hint(place))
        names = tuple(name.decode("utf-8", "replace") for name in arrays.pop(_SHARD_NAMES).tolist())
        return cls(shard_names=names, **arrays)

    @classmethod
    def of_shard(
        cls, name: str, size: int, rows: Sequence[tuple[int, ...]], boxes: Sequence[npt.NDArray[np.float32]]
    ) -> "Index":
        """Return the index of the shard `name`, `size` bytes long.

        A row is a record's offset, length, encoded_offset, encoded_length, label, height and width; `boxes` has those
        of each record.
        """
        columns = np.array(rows, np.int64).reshape(-1, len(_PER_RECORD) - 1).T
        names = list(_PER_RECORD)[1:]
        arrays = {key: column.astype(_PER_RECORD[key]) for key, column in zip(names, columns, strict=True)}
        return cls(
            shard_names=(name,),
            shard_sizes=np.array([size], np.int64),
            shard=np.zeros(len(rows), np.int32),
            box_start=np.cumsum([0, *map(len, boxes)], dtype=np.int64),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
            **arrays,
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Index"]) -> "Index":
        """Return the rows of `parts` (at least one), one after the other; their shards are numbered on."""
        first_shards = np.cumsum([0] + [len(part.shard_names) for part in parts[:-1]], dtype=np.int32)
        first_boxes = np.cumsum([0] + [len(part.boxes) for part in parts[:-1]], dtype=np.int64)
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_RECORD}
        arrays["shard"] = np.concatenate([part.shard + first for part, first in zip(parts, first_shards, strict=True)])
        starts = [part.box_start[:-1] + first for part, first in zip(parts, first_boxes, strict=True)]
        boxes = np.concatenate([part.boxes for part in parts])
        return cls(
            shard_names=tuple(name for part in parts for name in part.shard_names),
            shard_sizes=np.concatenate([part.shard_sizes for part in parts]),
            box_start=np.concatenate([*starts, np.array([len(boxes)], np.int64)]),
            boxes=boxes,
            **arrays,
        )


def _archive(arrays: dict[str, npt.NDArray[Any]]) -> memoryview:
    """Return the bytes of the file: zipfile itself would write them in dozens of pieces."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, version=(1, 0), allow_pickle=False)
            # A bare ZipInfo carries the date 1980-01-01: the same rows must give the same bytes.
            archive.writestr(zipfile.ZipInfo(name + ".npy"), data.getbuffer())
    return content.getbuffer()


def _find_misfit(arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Return which array of an index file has a type or length that does not fit the others, or nothing."""
    for name, dtype in (_PER_RECORD | _OTHERS).items():
        if arrays[name].dtype != np.dtype(dtype) or arrays[name].ndim != (2 if name == _BOXES else 1):
            return f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}"
    if arrays[_SHARD_NAMES].dtype.kind != "S" or arrays[_SHARD_NAMES].shape != arrays[_SHARD_SIZES].shape:
        return f"{_SHARD_NAMES} is {arrays[_SHARD_NAMES].dtype}{list(arrays[_SHARD_NAMES].shape)}"
    num_records = len(arrays["label"])
    for name in (*_PER_RECORD, _BOX_START):
        if len(arrays[name]) != num_records + (name == _BOX_START):
            return f"{name} has {len(arrays[name])} rows for {num_records} records"
    if arrays[_BOXES].shape[1] != 4 or arrays[_BOX_START][0] != 0 or arrays[_BOX_START][-1] != len(arrays[_BOXES]):
        return f"{_BOX_START} and {_BOXES} do not belong together"
    return ""


def _find_impossible(arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Return which value of an index file cannot be, or nothing; the arrays' types and lengths fit."""
    sizes = arrays[_SHARD_SIZES]
    if np.any((arrays["shard"] < 0) | (arrays["shard"] >= len(sizes))):
        return f"a record lies in a shard that is not among the {len(sizes)}"
    for name in ("offset", "length", "encoded_offset", "encoded_length", "label", "height", "width"):
        if np.any(arrays[name] < (name in ("height", "width"))):
            return f"{name} has the value {arrays[name].min()}"
    if np.any(arrays["offset"] + arrays["length"] + FRAME_BYTES > sizes[arrays["shard"]]):
        return "a record lies beyond the end of its shard"
    if np.any(arrays["encoded_offset"].astype(np.int64) + arrays["encoded_length"] > arrays["length"]):
        return "an image lies beyond the end of its record"
    if np.any(np.diff(arrays[_BOX_START]) < 0):
        return f"{_BOX_START} goes backwards"
    return ""


def _hint(path: Place) -> str:
    return f"delete the folder {path.parent} and prepare it again"
