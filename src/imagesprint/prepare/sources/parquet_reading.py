"""One parquet table of images: its labels and, by row group, its images. Needs pyarrow, an optional extra."""

import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.source import Stamp

_BYTES = "image.bytes"
_PATH = "image.path"


@dataclass(frozen=True)
class Rows:
    """What a table says beside the images.

    `class_names` are in the order of the labels, None where they are not given. `labels` and `image_names` ("" where
    unknown) have one entry a row; `groups` are (rows, mean bytes of an image) of each row group.
    """

    class_names: tuple[str, ...] | None
    labels: list[int]
    image_names: list[str]
    groups: list[tuple[int, int]]


def read_rows(path: Path) -> Rows:
    """Return what the table at `path` says beside the images, which are not read.

    Raises UsageError without pyarrow, DataError for a table that is damaged or of another form.
    """
    with _open(path) as table:
        leaves = [table.schema.column(i).path for i in range(len(table.schema))]
        if "label" not in leaves or _BYTES not in leaves:
            raise DataError(
                f"{path} has the columns {', '.join(table.schema_arrow.names)}",
                "prepare reads image, a struct with bytes, and label, an integer",
            )
        wanted = [leaf for leaf in ("label", _PATH) if leaf in leaves]
        rows = table.read(columns=wanted, use_threads=False).to_pydict()
        labels = rows["label"]
        return Rows(
            class_names=_class_names(table.schema_arrow.metadata or {}),
            labels=_checked(labels, path),
            image_names=[_name(image) for image in rows.get("image", [None] * len(labels))],
            groups=[_group(table.metadata.row_group(i)) for i in range(table.num_row_groups)],
        )


def read_image(path: Path, stamp: Stamp, row: int) -> bytes:
    """Return the image in a row of the table at `path`, empty if there is none.

    The row group is kept: its other images cost nothing. Raises DataError if the table cannot be read or has another
    stamp.
    """
    try:
        stamp.check(path.stat(), str(path))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}", "give the same command again once it is back"
        ) from error
    starts = _group_starts(path, stamp)
    group = bisect_right(starts, row) - 1
    data: bytes | None = _images(path, stamp, group)[row - starts[group]]["bytes"].as_py()
    return data or b""


@lru_cache(maxsize=64)
def _group_starts(path: Path, stamp: Stamp) -> list[int]:  # noqa: ARG001 (a changed file is another one)
    """Return the first row of each row group."""
    with _open(path) as table:
        return [0, *accumulate(table.metadata.row_group(i).num_rows for i in range(table.num_row_groups))][:-1]


@lru_cache(maxsize=1)
def _images(path: Path, stamp: Stamp, group: int) -> Any:  # noqa: ARG001
    """Return the images of a row group, an Arrow array of structs."""
    with _open(path) as table:
        return table.read_row_group(group, columns=[_BYTES], use_threads=False)["image"]


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a table. What goes wrong with it, also within the block, is a DataError; without pyarrow a UsageError."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path} needs pyarrow, which is not installed", "pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:  # Arrow has an OSError of its own for damaged pages
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} cannot be read: {reason}", "download it again and compare its checksum") from error


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """Return the names that Hugging Face's `datasets` puts into a table's schema."""
    try:
        return tuple(map(str, json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]))
    except (KeyError, TypeError, ValueError):
        return None


def _checked(labels: list[Any], path: Path) -> list[int]:
    for row, label in enumerate(labels):
        if label is None or label == -1:
            raise DataError(
                f"row {row} of {path} has the label {label}, which is none",
                "unlabelled images, such as those of a test split, are no source: move the file away",
            )
        if not isinstance(label, int) or label < 0:
            raise DataError(
                f"row {row} of {path} has the label {label!r}", "labels are integers that count the classes from 0"
            )
    return labels


def _name(image: dict[str, str | None] | None) -> str:
    return ((image or {}).get("path") or "").rpartition("/")[2]


def _group(metadata: Any) -> tuple[int, int]:
    columns = [metadata.column(i) for i in range(metadata.num_columns)]
    num_bytes = sum(column.total_compressed_size for column in columns if column.path_in_schema == _BYTES)
    return metadata.num_rows, max(1, num_bytes // max(1, metadata.num_rows))
