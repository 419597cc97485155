"""The source most people have: one folder a class, in SRC/train and SRC/val, or in one tree.

    SRC/train/CLASS/*.jpg  and  SRC/val/CLASS/*.jpg (or SRC/validation)
    SRC/train/CLASS/*.jpg  or  SRC/CLASS/*.jpg, to be split by --val-fraction

The folders of the splits may be written in any case. Classes are numbered in the sorted order of their folders' names.
Images may lie in folders below the class folder too, but not in these alone: that is mostly one folder too many around
the classes. Hidden files and folders are skipped; every other file is tried as an image, whatever its name.
"""

import os
from pathlib import Path

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.folders import read_file, reading_source, visible_files, visible_folders
from imagesprint.prepare.sources.source import Listing, Sample, check_every_class
from imagesprint.records.manifest import ClassInfo

_SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "validation")}
_LAYOUT = "the layout is SOURCE/train/CLASS/*.jpg and SOURCE/val/CLASS/*.jpg, or SOURCE/CLASS/*.jpg"


class ClassFolders:
    """Images in class folders below `path`."""

    kind: str = "class-folders"
    form: str = "class folders: train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg"

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether there are folders, which may be those of classes."""
        return bool(visible_folders(path))

    def scan(self) -> Listing:
        """Return all samples; without "validation" where the tree has no such folder.

        Raises DataError for a class without train images or for what cannot be read, UsageError for a tree of another
        form.
        """
        with reading_source():
            return self._scan()

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample's file. Raises DataError if it cannot be read or its size has changed."""
        return read_file(self.path, sample)

    def _scan(self) -> Listing:
        folders = self._split_folders()
        train = folders["train"]
        classes = visible_folders(train)
        if not classes:
            raise UsageError(f"there are no class folders in {train}", _LAYOUT)
        labels = {name: label for label, name in enumerate(classes)}
        if "validation" in folders:
            unknown = sorted(set(visible_folders(folders["validation"])) - set(labels))
            if unknown:
                raise DataError(
                    f"class {unknown[0]!r} is in {folders['validation']} but not in {train}"
                    + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""),
                    "give it training images, or remove it; are the folders of both splits named alike?",
                )
        splits = {split: self._samples(folder, labels) for split, folder in folders.items()}
        if not splits["train"]:
            raise DataError(f"there are no images in {train}", _LAYOUT)
        check_every_class(classes, splits["train"], train)
        self._check_depth(classes, splits["train"], train)
        if "validation" in splits and not splits["validation"]:
            raise DataError(f"there are no images in {folders['validation']}", _LAYOUT)
        return Listing(
            classes=tuple(ClassInfo(name, synset=name, text=name) for name in classes),
            splits=splits,
            notes=(
                *(note for folder in folders.values() for note in _stray_files(folder)),
                *self._ignored_folders(folders),
                *(
                    [f"{train} holds a single class, {classes[0]}: is it the right folder?"]
                    if len(classes) == 1
                    else []
                ),
            ),
        )

    def _split_folders(self) -> dict[str, Path]:
        """Return the folder of each split; one tree is all "train"."""
        named: dict[str, Path] = {}
        for name in visible_folders(self.path):
            for split, names in _SPLIT_FOLDERS.items():
                if name.lower() not in names:
                    continue
                if split in named:
                    raise UsageError(f"{self.path} has both {named[split].name} and {name}", "remove or rename one")
                named[split] = self.path / name
        without_classes = [folder for folder in named.values() if not visible_folders(folder)]
        # One folder of such a name that holds images, not folders, is a class of that name.
        if not named or (len(named) == 1 and without_classes):
            return {"train": self.path}
        if without_classes:
            hint = "sort its images into one folder a class"
            if without_classes[0] == named.get("validation"):
                hint += "; or move it away, and --val-fraction 0.1 splits the training images"
            raise UsageError(f"{without_classes[0]} holds no class folders", hint)
        if "train" not in named:
            raise UsageError(f"{self.path} has {named['validation'].name} but no train folder with classes", _LAYOUT)
        return named

    def _check_depth(self, classes: list[str], samples: list[Sample], folder: Path) -> None:
        """Raise UsageError for a class that has images in folders below its own alone."""
        straight = 1 if folder == self.path else 2  # slashes in the location of an image of the class folder itself
        direct = {sample.label for sample in samples if sample.location.count(os.sep) == straight}
        deep = [name for label, name in enumerate(classes) if label not in direct]
        if deep:
            raise UsageError(
                f"class folder {folder / deep[0]} holds folders alone, no images",
                f"if its folders are the classes, or train and val, give {folder / deep[0]} as SOURCE; "
                "if not, put its images straight into it",
            )

    def _ignored_folders(self, folders: dict[str, Path]) -> list[str]:
        """Return the note that there are folders beside those of the splits, such as test."""
        if folders["train"] == self.path:
            return []
        others = sorted(set(visible_folders(self.path)) - {folder.name for folder in folders.values()})
        names = " and ".join(folder.name for folder in folders.values())
        return [f"of {self.path}, {names} are used and {', '.join(others[:5])} left out"] if others else []

    def _samples(self, folder: Path, labels: dict[str, int]) -> list[Sample]:
        samples = []
        for class_name in visible_folders(folder):
            for path, num_bytes in visible_files(folder / class_name):
                location = os.path.relpath(path, self.path)
                samples.append(Sample(location, labels[class_name], num_bytes))
        return samples


def _stray_files(folder: Path) -> list[str]:
    strays = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    if not strays:
        return []
    return [f"{len(strays)} files of {folder} lie in no class folder and are left out, the first of them {strays[0]}"]
