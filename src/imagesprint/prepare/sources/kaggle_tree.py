"""ImageNet (ILSVRC 2012) as Kaggle's archive unpacks it.

ILSVRC/Data/CLS-LOC/train/SYNSET/*.JPEG          ILSVRC/Data/CLS-LOC/val/*.JPEG
ILSVRC/Annotations/CLS-LOC/train/SYNSET/*.xml    ILSVRC/Annotations/CLS-LOC/val/*.xml    (may be missing)
LOC_synset_mapping.txt                           LOC_val_solution.csv
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.annotations import collect_boxes
from imagesprint.prepare.sources.folders import read_file, reading_source, visible_files, visible_folders
from imagesprint.prepare.sources.ilsvrc_classes import to_classes
from imagesprint.prepare.sources.source import Listing, Sample, check_every_class

_IMAGES = Path("ILSVRC/Data/CLS-LOC")
_BELOW_ILSVRC = _IMAGES.relative_to("ILSVRC")
_ANNOTATIONS = Path("ILSVRC/Annotations/CLS-LOC")
_MAPPING = "LOC_synset_mapping.txt"
_SOLUTION = "LOC_val_solution.csv"
_FOLDERS = ("train", "val")


class KaggleTree:
    """The tree in the folder `path`, which holds ILSVRC and the two tables."""

    kind: str = "kaggle"
    form: str = f"Kaggle's ImageNet: {_IMAGES}/train/SYNSET/*.JPEG, {_IMAGES}/val/*.JPEG, {_MAPPING}, {_SOLUTION}"

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether the folder of the images is there, or would be if the folder above were given."""
        return (path / _IMAGES).is_dir() or (path / _BELOW_ILSVRC).is_dir()

    def scan(self) -> Listing:
        """Return all samples; without "validation" where there is no val folder.

        Raises UsageError for a missing table or folder, DataError for what is damaged or does not fit together.
        """
        with reading_source():
            return self._scan()

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample's file. Raises DataError if it cannot be read or its size has changed."""
        return read_file(self.path, sample)

    def _scan(self) -> Listing:
        if not (self.path / _IMAGES).is_dir():
            raise UsageError(
                f"{self.path} is the folder ILSVRC itself",
                f"give {self.path.resolve().parent}, which holds it beside {_MAPPING} and {_SOLUTION}",
            )
        lines = [line.strip() for line in self._lines(_MAPPING, "the words of the classes")]
        words = dict(line.split(" ", 1) for line in lines if " " in line)
        train = self.path / _IMAGES / "train"
        classes = to_classes(visible_folders(train), words, train, _MAPPING)
        labels = {entry.synset: label for label, entry in enumerate(classes)}
        splits = {}
        if (self.path / _IMAGES / "val").is_dir():
            splits["validation"] = self._validation_samples(labels)
        splits["train"] = [sample for synset, label in labels.items() for sample in self._train_samples(synset, label)]
        check_every_class(list(labels), splits["train"], train)
        notes = [
            f"there is no {_ANNOTATIONS / folder}, so its images have no bounding boxes"
            for folder in _FOLDERS
            if (self.path / _IMAGES / folder).is_dir() and not (self.path / _ANNOTATIONS / folder).is_dir()
        ]
        return Listing(classes, splits, tuple(notes))

    def _train_samples(self, synset: str, label: int) -> list[Sample]:
        boxes = collect_boxes(self._documents(f"train/{synset}"), lambda _: synset)
        return [
            Sample(location, label, num_bytes, boxes=boxes.get(_stem(location), ()))
            for location, num_bytes in self._images(f"train/{synset}")
        ]

    def _validation_samples(self, labels: dict[str, int]) -> list[Sample]:
        synsets = self._validation_synsets(labels)
        boxes = collect_boxes(self._documents("val"), synsets.get)
        samples = []
        for location, num_bytes in self._images("val"):
            synset = synsets.get(_stem(location))
            if synset is None:
                raise DataError(
                    f"{_SOLUTION} has no row for {location}", "download it again, or remove the image that is not in it"
                )
            samples.append(Sample(location, labels[synset], num_bytes, boxes=boxes.get(_stem(location), ())))
        if len(samples) != len(synsets):
            raise DataError(
                f"{_SOLUTION} has {len(synsets)} rows, but {_IMAGES}/val holds {len(samples)} images",
                "is the archive unpacked completely?",
            )
        return samples

    def _validation_synsets(self, labels: dict[str, int]) -> dict[str, str]:
        """Return the synset of each validation image, by its name without extension."""
        synsets = {}
        for row in csv.DictReader(self._lines(_SOLUTION, "the labels of the validation images")):
            image, prediction = row.get("ImageId"), row.get("PredictionString") or ""
            synset = prediction.partition(" ")[0]  # its boxes follow, which the annotations have too
            if not image or synset not in labels:
                raise DataError(
                    f"{_SOLUTION} has the row {','.join(str(value) for value in row.values())!r}, which names no class",
                    "its columns are ImageId and PredictionString: download it again",
                )
            synsets[image] = synset
        return synsets

    def _lines(self, name: str, purpose: str) -> list[str]:
        path = self.path / name
        if not path.exists():
            raise UsageError(f"there is no {name} in {self.path}", f"put it beside ILSVRC: it has {purpose}")
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()

    def _images(self, folder: str) -> list[tuple[str, int]]:
        """Return (location, size) of every image in a folder of the images."""
        found = visible_files(self.path / _IMAGES / folder)
        return [(os.path.relpath(path, self.path), num_bytes) for path, num_bytes in found]

    def _documents(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """Yield (location, bytes) of every file in a folder of the annotations; none where there is no such folder."""
        if (self.path / _ANNOTATIONS / folder).is_dir():
            for path, _ in visible_files(self.path / _ANNOTATIONS / folder):
                yield os.path.relpath(path, self.path), Path(path).read_bytes()


def _stem(location: str) -> str:
    return location.rpartition("/")[2].rpartition(".")[0]
