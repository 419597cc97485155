"""Parquet as Hugging Face stores image sets, in the source's folder, in its folder data or in folders of the splits.

    train-00000-of-00294.parquet, …        validation-00000-of-00014.parquet, … (or val-…, valid-…)
    train/0000.parquet, …                  validation/0000.parquet, …

All that may lie in a folder below, which Hugging Face calls a configuration. Columns are image (a struct of bytes and
path) and label (an integer), or what is as clear; others are not looked at.
"""

from pathlib import Path

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.downloads import find_files, number_classes, sort_by_split
from imagesprint.prepare.sources.folders import reading_source
from imagesprint.prepare.sources.parquet_reading import Rows, read_image, read_rows
from imagesprint.prepare.sources.source import Listing, Sample, Stamp
from imagesprint.records.manifest import ClassInfo


class ParquetTables:
    """The tables in or below the folder `path`."""

    kind: str = "parquet"
    form: str = "parquet: train-*.parquet and validation-*.parquet with the columns image and label (or in data/)"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamps: dict[str, Stamp] = {}

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether there are tables, or Arrow files that could have been such."""
        tables, arrow = find_files(path, ".parquet"), find_files(path, ".arrow")
        return any(found.places and not found.is_by_the_way(path) for found in (tables, arrow))

    def scan(self) -> Listing:
        """Return all samples; without "validation" where there are no such tables. No image is read.

        Each row group is a block; `num_bytes` is the mean in it. Raises UsageError where pyarrow or the tables of train
        are missing, DataError for tables that are damaged, missing or of two sets, or have other columns or labels.
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
        found = find_files(self.path, ".parquet")
        if not found.places:
            raise UsageError(
                f"{self.path} holds .arrow files, as save_to_disk of Hugging Face's datasets writes, not parquet",
                "convert it in Python: for name, split in datasets.load_from_disk(SOURCE).items(): "
                'split.to_parquet(f"NEW/{name}.parquet")',
            )
        splits = sort_by_split(found, self.path)
        tables = {split: {name: self._read(name) for name in names} for split, names in splits.files.items()}
        samples = {split: _samples(rows) for split, rows in tables.items()}
        names = _names_of_all([entry for rows in tables.values() for entry in rows.items()])
        classes, more = number_classes(names, samples, f"the tables of {self.path}")
        return Listing(
            classes=tuple(ClassInfo(name, synset=name, text=name) for name in classes),
            splits=samples,
            notes=(*splits.notes, *more),
            offer=splits.offer,
        )

    def _read(self, name: str) -> Rows:
        path = self.path / name
        self._stamps[name] = Stamp.of(path.stat())
        return read_rows(path)


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


def _names_of_all(tables: list[tuple[str, Rows]]) -> tuple[str, ...] | None:
    """Return the names of the classes, None where no table gives any. Raises DataError where two tables differ."""
    named = [(name, rows.class_names) for name, rows in tables if rows.class_names is not None]
    for name, names in named:
        if names != named[0][1]:
            raise DataError(f"{name} has other class names than {named[0][0]}", "are they of the same download?")
    return named[0][1] if named else None
