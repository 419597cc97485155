"""ImageNet (ILSVRC 2012) as Kaggle's archive unpacks it.

ILSVRC/Data/CLS-LOC/train/SYNSET/*.JPEG          ILSVRC/Data/CLS-LOC/val/*.JPEG
ILSVRC/Annotations/CLS-LOC/train/SYNSET/*.xml    ILSVRC/Annotations/CLS-LOC/val/*.xml    (may be missing)
LOC_synset_mapping.txt                           LOC_val_solution.csv

Given is the folder that holds ILSVRC, or one below or above that: the folder above it, ILSVRC or ILSVRC/Data, and
CLS-LOC while the images of its val are not sorted into class folders (it is a source of class folders then). Without
LOC_val_solution.csv, images that are sorted so have their folder's class.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from imagesprint.errors import DataError, UsageError
from imagesprint.images.finding import Walk
from imagesprint.prepare.names import some
from imagesprint.prepare.sources.folders import FolderSource, holds_images, sole_folder, stray_files, visible_folders
from imagesprint.prepare.sources.ilsvrc import collect_boxes, to_classes
from imagesprint.prepare.sources.source import Listing, SourceImage, check_every_class

_IMAGES = Path("ILSVRC/Data/CLS-LOC")
_BELOW_ILSVRC = _IMAGES.relative_to("ILSVRC")
_ANNOTATIONS = Path("ILSVRC/Annotations/CLS-LOC")
_MAPPING = "LOC_synset_mapping.txt"
_SOLUTION = "LOC_val_solution.csv"
_FOLDERS = ("train", "val")


class KaggleTree(FolderSource):
    """The tree in the folder `path`, which holds ILSVRC and the two tables."""

    kind = "kaggle"
    files = (f"*{_MAPPING}", f"*{_SOLUTION}", "*Annotations/CLS-LOC/*.xml")
    form = f"Kaggle's ImageNet: {_IMAGES}/train/SYNSET/*.JPEG, {_IMAGES}/val/*.JPEG, {_MAPPING}, {_SOLUTION}"

    def __init__(self, path: Path) -> None:
        super().__init__(_find_tree(path) or path)

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether the folder of the images is there, or would be if the folder above were given."""
        return _find_tree(path) is not None or (path / _BELOW_ILSVRC).is_dir()

    def _scan(self) -> Listing:
        if not (self.path / _IMAGES).is_dir():
            raise UsageError(
                f"{self.path} is the folder ILSVRC itself, under another name",
                f"name it ILSVRC, put {_MAPPING} and {_SOLUTION} beside it, and give the folder above",
            )
        train, val = (self.path / _IMAGES / name for name in _FOLDERS)
        lines = [line.strip() for line in self._lines(_MAPPING, "the words of the classes")]
        words = dict(line.split(" ", 1) for line in lines if " " in line)
        classes = to_classes(visible_folders(train), words, train, _MAPPING)
        labels = {entry.synset: label for label, entry in enumerate(classes)}
        walk = Walk([*(train / synset for synset in labels), *([val] if val.is_dir() else [])])
        splits = {}
        if val.is_dir():
            splits["validation"] = self._validation_samples(labels, self._list_images(walk, val))
        splits["train"] = [
            sample
            for synset, label in labels.items()
            for sample in self._train_samples(synset, label, self._list_images(walk, train / synset))
        ]
        check_every_class(list(labels), splits["train"], train)
        return Listing(classes, splits, (*stray_files(train, walk), *self._left_out(walk), *walk.notes()))

    def _left_out(self, walk: Walk) -> list[str]:
        """Return notes on what is missing, and on what is not used."""
        notes = [
            f"there is no {_ANNOTATIONS / folder}, so its images have no bounding boxes"
            for folder in _FOLDERS
            if (self.path / _IMAGES / folder).is_dir() and not (self.path / _ANNOTATIONS / folder).is_dir()
        ]
        others = sorted(set(walk.look(self.path / _IMAGES)[0]) - set(_FOLDERS))
        notes += [f"of {_IMAGES}, {', '.join(others)} is left out"] if others else []
        beside = [name for name in walk.look(self.path)[0] if name != _IMAGES.parts[0]]
        return [*notes, *([f"of {self.path}, ILSVRC is used and {some(beside)} left out"] if beside else [])]

    def _train_samples(self, synset: str, label: int, images: list[tuple[str, int]]) -> list[SourceImage]:
        boxes = collect_boxes(self._documents(f"train/{synset}"), lambda _: synset)
        return [
            SourceImage(location, label, num_bytes, boxes=boxes.get(_stem(location), ()))
            for location, num_bytes in images
        ]

    def _validation_samples(self, labels: dict[str, int], images: list[tuple[str, int]]) -> list[SourceImage]:
        folders = {_stem(location): location.split("/")[-2] for location, _ in images}
        is_sorted = not self._table(_SOLUTION).exists() and folders and set(folders.values()) <= set(labels)
        synsets = folders if is_sorted else self._validation_synsets(labels)
        boxes = collect_boxes(self._documents("val"), synsets.get)
        samples = []
        for location, num_bytes in images:
            stem = _stem(location)
            if stem not in synsets:
                raise DataError(
                    f"{_SOLUTION} has no row for {location}", "download it again, or remove the image that is not in it"
                )
            samples.append(SourceImage(location, labels[synsets[stem]], num_bytes, boxes=boxes.get(stem, ())))
        if len(samples) != len(synsets):
            raise DataError(
                f"{_SOLUTION} has {len(synsets)} rows, but {_IMAGES}/val holds {len(samples)} images",
                "is the archive unpacked completely?",
            )
        return samples

    def _validation_synsets(self, labels: dict[str, int]) -> dict[str, str]:
        """Return the synset of each validation image, by its name without extension."""
        synsets = {}
        lines = self._lines(_SOLUTION, "the labels of the validation images")
        try:
            for row in csv.DictReader(lines):
                image, prediction = row.get("ImageId"), row.get("PredictionString") or ""
                synset = prediction.partition(" ")[0]  # its boxes follow, which the annotations have too
                if not image or synset not in labels:
                    raise DataError(
                        f"{_SOLUTION} has the row {','.join(str(value) for value in row.values())!r}, "
                        "which names no class",
                        "its columns are ImageId and PredictionString: download it again",
                    )
                synsets[image] = synset
        except csv.Error as error:
            raise DataError(f"{_SOLUTION} cannot be read: {error}", "download it again") from error
        return synsets

    def _lines(self, name: str, purpose: str) -> list[str]:
        path = self._table(name)
        if not path.exists():
            hint = f"put it beside ILSVRC: it has {purpose}"
            if visible_folders(self.path / _IMAGES / "val"):
                hint += f"; or give {self.path / _IMAGES} as SOURCE, as val is sorted into class folders there"
            raise UsageError(f"there is no {name} in {self.path}", hint)
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()

    def _table(self, name: str) -> Path:
        """Return where a table is: beside ILSVRC, as it is unpacked, or moved into it."""
        inside = self.path / "ILSVRC" / name
        return inside if inside.exists() else self.path / name

    def _documents(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """Yield (location, bytes) of every file in a folder of the annotations; none where there is no such folder."""
        place = self.path / _ANNOTATIONS / folder
        if place.is_dir():
            for entry in Walk([place]).files(place):
                yield os.path.relpath(entry.path, self.path), Path(entry.path).read_bytes()


def _stem(location: str) -> str:
    return location.rpartition("/")[2].rpartition(".")[0]


def _find_tree(path: Path) -> Path | None:
    """Return the folder that holds ILSVRC: `path`, one above it, or one of the few in it."""
    if (path / _IMAGES).is_dir():
        return path
    real = path.resolve()
    for place in real.parents[:3]:
        if real.relative_to(place) in (_IMAGES, *_IMAGES.parents) and (place / _IMAGES).is_dir():
            # A val that is sorted makes CLS-LOC class folders, and without val it is one tree of them.
            val = real / "val"
            is_flat = val.is_dir() and holds_images(val) and not visible_folders(val)
            return place if real != place / _IMAGES or is_flat else None
    return sole_folder(path, lambda folder: os.path.isdir(folder / _IMAGES))
