"""Parquet as Hugging Face stores image sets, in the source's folder or in its folder data.

    train-00000-of-00294.parquet, …        validation-00000-of-00014.parquet, … (or val-…)

Columns are image (a struct of bytes and path) and label (an integer). Other columns are not looked at.
"""

import re
from pathlib import Path

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.folders import reading_source
from imagesprint.prepare.sources.parquet_reading import Rows, read_image, read_rows
from imagesprint.prepare.sources.source import Listing, Sample, Stamp, check_every_class
from imagesprint.records.manifest import ClassInfo

_SPLITS = {"train": "train", "validation": "validation", "val": "validation"}  # by the first word of a file's name


class ParquetTables:
    """The tables in the folder `path` or in its folder data."""

    kind: str = "parquet"
    form: str = "parquet: train-*.parquet and validation-*.parquet with the columns image and label (or in data/)"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamps: dict[str, Stamp] = {}

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether there are tables."""
        return bool(_table_names(path))

    def scan(self) -> Listing:
        """Return all samples; without "validation" where there are no such tables. No image is read.

        Each row group is a block; `num_bytes` is the mean in it. Raises UsageError where pyarrow or the tables of train
        are missing, DataError for tables that are damaged or have other columns or labels.
        """
        with reading_source():
            return self._scan()

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample, empty where the table has none.

        Raises DataError if the table cannot be read or has changed.
        """
        name = sample.location.partition("/row ")[0]
        return read_image(self.path / name, self._stamps[name], sample.offset)

    def _scan(self) -> Listing:
        tables: dict[str, dict[str, Rows]] = {"train": {}, "validation": {}}
        left_out = []
        for name in _table_names(self.path):
            split = _SPLITS.get(re.split(r"[-_.]", name.rpartition("/")[2])[0])
            if split is None:
                left_out.append(name)
                continue
            path = self.path / name
            self._stamps[name] = Stamp.of(path.stat())
            tables[split][name] = read_rows(path)
        if not tables["train"]:
            raise UsageError(f"no table in {self.path} has a name that begins with train-", self.form)
        splits = {split: _samples(rows) for split, rows in tables.items() if rows}
        classes = _class_names({**tables["train"], **tables["validation"]})
        check_every_class(classes, splits["train"], f"the tables of train in {self.path}")
        more = ", …" if len(left_out) > 3 else ""
        return Listing(
            classes=tuple(ClassInfo(name, synset=name, text=name) for name in classes),
            splits=splits,
            notes=(f"tables of other splits are left out: {', '.join(left_out[:3])}{more}",) if left_out else (),
        )


def _table_names(folder: Path) -> list[str]:
    """Return the tables' paths, relative to the source's `folder`."""
    return sorted(str(path.relative_to(folder)) for sub in ("", "data") for path in (folder / sub).glob("*.parquet"))


def _samples(tables: dict[str, Rows]) -> list[Sample]:
    samples: list[Sample] = []
    for name, table in tables.items():
        first_block = samples[-1].block + 1 if samples else 0
        stem = name.rpartition("/")[2].removesuffix(".parquet")
        groups = [(block, size) for block, (rows, size) in enumerate(table.groups, first_block) for _ in range(rows)]
        for row, (label, image, (block, num_bytes)) in enumerate(
            zip(table.labels, table.image_names, groups, strict=True)
        ):
            location = f"{name}/row {row}/{image or f'{stem}-{row}'}"
            samples.append(Sample(location, label, num_bytes, row, block=block))
    return samples


def _class_names(tables: dict[str, Rows]) -> list[str]:
    """Return the names of the classes, numbers where the tables do not give any. Raises DataError."""
    first, rows = next(iter(tables.items()))
    for name, other in tables.items():
        if other.class_names != rows.class_names:
            raise DataError(f"{name} has other class names than {first}", "are they of the same download?")
    count = 1 + max(max(other.labels, default=0) for other in tables.values())
    names = rows.class_names
    if names is None:
        return [str(label) for label in range(count)]
    if count > len(names):
        raise DataError(
            f"the tables have the label {count - 1}, but name {len(names)} classes",
            "labels count from 0: are they of the same download?",
        )
    return list(names)
