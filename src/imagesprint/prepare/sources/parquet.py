"""Parquet as Hugging Face stores image sets, in the source's folder, in its folder data or in folders of the splits.

    train-00000-of-00294.parquet, …        validation-00000-of-00014.parquet, … (or val-…, valid-…)
    train/0000.parquet, …                  validation/0000.parquet, …

All that may lie in a folder below, which Hugging Face calls a configuration. The images are the one column of structs
with bytes, or of bytes, or of these the one that is named image. The labels, integers, are the column label, or else
the one column of another common name; others are not looked at. Needs pyarrow, an optional extra.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.downloads import find_files, number_classes, other_content, sort_by_split
from imagesprint.prepare.sources.source import Listing, Source, SourceImage, Stamp, plain_classes

_IMAGE = "image"
_LABEL = "label"
_LABELS = ("labels", "cls", "class", "target", "fine_label")  # fine_label: CIFAR-100, which has a coarse_label, too
_HEAD = 512  # bytes that tell what a file is
_LEAST_BYTES = 64  # a row: no image is smaller
_AGAIN = "download it again and compare its checksum"


class ParquetTables(Source):
    """The tables in or below the folder `path`. Each row group is a block; an image's `num_bytes` is the mean in it."""

    kind = "parquet"
    files = ("*.parquet",)
    form = "parquet: train-*.parquet and validation-*.parquet with the columns image and label (or in data/)"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._stamps: dict[str, Stamp] = {}

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether there are tables, or Arrow files that could have been such."""
        tables, arrow = find_files(path, ".parquet"), find_files(path, ".arrow")
        return any(found.places and not found.is_by_the_way(path) for found in (tables, arrow))

    def read(self, sample: SourceImage) -> bytes:
        """Return the bytes of a sample. The row group that it is in is kept: its other images cost nothing."""
        name, row = sample.location.partition("/row ")[0], sample.offset
        path, stamp = self.path / name, self._stamps[name]
        try:
            stamp.check(path.stat(), str(path))
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}", "give the same command again once it is back"
            ) from error
        starts = _group_starts(path, stamp)
        group = bisect_right(starts, row) - 1
        images = _images(path, stamp, group)
        if row - starts[group] >= len(images):
            raise DataError(f"{path} has no image for its row {row}", _AGAIN)
        return _bytes_of(images[row - starts[group]].as_py())

    def _scan(self) -> Listing:
        found = find_files(self.path, ".parquet")
        if not found.places:
            raise UsageError(
                f"{self.path} holds .arrow files, as save_to_disk of Hugging Face's datasets writes, not parquet",
                "convert it in Python: for name, split in datasets.load_from_disk(SOURCE).items(): "
                'split.to_parquet(f"NEW/{name}.parquet")',
            )
        splits = sort_by_split(found, self.path)
        self._stamps = {name: Stamp.of((self.path / name).stat()) for names in splits.files.values() for name in names}
        tables = {
            split: {name: _read_rows(self.path / name) for name in names} for split, names in splits.files.items()
        }
        samples = {split: _samples(rows) for split, rows in tables.items()}
        names = _names_of_all([entry for rows in tables.values() for entry in rows.items()])
        classes, more = number_classes(names, samples, f"the tables of {self.path}")
        return Listing(plain_classes(classes), samples, (*splits.notes, *more), splits.offer)


@dataclass(frozen=True)
class _Rows:
    """What a table says beside the images.

    `class_names` are in the order of the labels, None where they are not given. `labels` and `image_names` ("" where
    unknown) have one entry a row; `groups` are (rows, mean bytes of an image) of each row group.
    """

    class_names: tuple[str, ...] | None
    labels: list[int]
    image_names: list[str]
    groups: list[tuple[int, int]]


def _read_rows(path: Path) -> _Rows:
    """Return what the table at `path` says beside the images, which are not read.

    Raises UsageError without pyarrow, DataError for a table that is damaged or of another form.
    """
    with _open(path) as table:
        columns = _find_columns(table, path)
        leaves = [leaf for leaf in _leaves(table) if leaf in (columns.label, f"{columns.image}.path")]
        rows = table.read(columns=leaves, use_threads=False).to_pydict()
        labels = rows[columns.label]
        names = [_name(image) for image in rows.get(columns.image, [None] * len(labels))]
        groups = [_group(table.metadata.row_group(i), columns.leaf) for i in range(table.num_row_groups)]
        if labels and _has_no_bytes(table, columns, groups):
            raise DataError(
                f"{path} has the paths of its images alone, such as {rows[columns.image][0]['path']!r}, no bytes"
                if any(names)
                else f"{path} has no images: its column {columns.image} is empty",
                "write it with the bytes of the images in it, as push_to_hub of Hugging Face's datasets does",
            )
        _check_labels(labels, path)
        return _Rows(_class_names(table.schema_arrow.metadata or {}, columns.label), labels, names, groups)


@lru_cache(maxsize=64)
def _group_starts(path: Path, stamp: Stamp) -> list[int]:  # noqa: ARG001 (a changed file is another one)
    """Return the first row of each row group."""
    with _open(path) as table:
        return [0, *accumulate(table.metadata.row_group(i).num_rows for i in range(table.num_row_groups))][:-1]


@lru_cache(maxsize=1)
def _images(path: Path, stamp: Stamp, group: int) -> Any:  # noqa: ARG001
    """Return the images of a row group, an Arrow array of structs or of bytes."""
    with _open(path) as table:
        columns = _find_columns(table, path)
        return table.read_row_group(group, columns=[columns.leaf], use_threads=False)[columns.image]


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
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:  # an OSError also for damaged pages
        with path.open("rb") as file:
            other = other_content(str(path), file.read(_HEAD))
        if other is not None:
            raise other from error
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} cannot be read: {reason}", _AGAIN) from error


@dataclass(frozen=True)
class _Columns:
    """The names of the columns of images and of labels; `leaf` is that of the images' bytes in the file."""

    image: str
    leaf: str
    label: str


def _find_columns(table: Any, path: Path) -> _Columns:
    """Return what to read of a table. Raises DataError where that is not clear."""
    leaves = _leaves(table)
    images = {leaf.removesuffix(".bytes"): leaf for leaf, column in leaves.items() if _holds_bytes(leaf, column)}
    labels = [_LABEL] if _LABEL in leaves else [leaf for leaf in leaves if leaf in _LABELS]
    image = _IMAGE if _IMAGE in images else next(iter(images), "")
    if len(labels) == 1 and (image == _IMAGE or len(images) == 1):
        return _Columns(image, images[image], labels[0])
    raise DataError(
        f"{path} has the columns {', '.join(table.schema_arrow.names)}",
        "prepare reads image, a struct with bytes, and label, an integer: rename yours so",
    )


def _leaves(table: Any) -> Mapping[str, Any]:
    """Return the columns of the file by their paths, as in image.bytes."""
    return {table.schema.column(i).path: table.schema.column(i) for i in range(len(table.schema))}


def _holds_bytes(leaf: str, column: Any) -> bool:
    """Tell whether a leaf is bytes in a struct, or a column of bytes; text is neither."""
    is_bytes = column.physical_type == "BYTE_ARRAY" and column.logical_type.type == "NONE"
    return is_bytes and (leaf.endswith(".bytes") or "." not in leaf)


def _has_no_bytes(table: Any, columns: _Columns, groups: list[tuple[int, int]]) -> bool:
    """Tell whether there is not one image. Reads them only where there are too few bytes for any."""
    # Not by the statistics in the footer: pyarrow 26 ends the process where these are damaged.
    if any(num_bytes >= _LEAST_BYTES for _, num_bytes in groups):
        return False
    images = table.read(columns=[columns.leaf], use_threads=False)[columns.image].to_pylist()
    return not any(_bytes_of(image) for image in images)


def _class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """Return the names that Hugging Face's `datasets` puts into a table's schema."""
    try:
        return tuple(map(str, json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]))
    except (KeyError, TypeError, ValueError):
        return None


def _check_labels(labels: list[Any], path: Path) -> None:
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


def _bytes_of(image: Any) -> bytes:
    data: bytes | None = image.get("bytes") if isinstance(image, dict) else image
    return data or b""


def _name(image: Any) -> str:
    path = (image or {}).get("path")
    return path.rpartition("/")[2] if isinstance(path, str) else ""


def _group(group: Any, leaf: str) -> tuple[int, int]:
    columns = [group.column(i) for i in range(group.num_columns)]
    num_bytes = sum(column.total_compressed_size for column in columns if column.path_in_schema == leaf)
    return group.num_rows, max(1, num_bytes // max(1, group.num_rows))


def _samples(tables: dict[str, _Rows]) -> list[SourceImage]:
    samples: list[SourceImage] = []
    first_block = 0
    for name, table in tables.items():
        stem = name.rpartition("/")[2].removesuffix(".parquet")
        groups = [(block, size) for block, (rows, size) in enumerate(table.groups, first_block) for _ in range(rows)]
        for row, (label, image, (block, num_bytes)) in enumerate(
            zip(table.labels, table.image_names, groups, strict=True)
        ):
            location = f"{name}/row {row}/{image or f'{stem}-{row}'}"
            samples.append(SourceImage(location, label, num_bytes, row, block=block))
        first_block = samples[-1].block + 1 if samples else 0
    return samples


def _names_of_all(tables: list[tuple[str, _Rows]]) -> tuple[str, ...] | None:
    """Return the names of the classes, None where no table gives any. Raises DataError where two tables differ."""
    named = [(name, rows.class_names) for name, rows in tables if rows.class_names is not None]
    for name, names in named:
        if names != named[0][1]:
            raise DataError(f"{name} has other class names than {named[0][0]}", "are they of the same download?")
    return named[0][1] if named else None
