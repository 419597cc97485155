"""The source most people have: one folder a class, in SRC/train and SRC/val, or in one tree.

    SRC/train/CLASS/*.jpg  and  SRC/val/CLASS/*.jpg (or SRC/validation)
    SRC/train/CLASS/*.jpg  or  SRC/CLASS/*.jpg, to be split by --val-fraction

Classes are numbered in the sorted order of their folders' names. Images may lie in folders below the class folder.
Hidden files and folders are skipped; every other file is tried as an image, whatever its name.
"""

import os
import stat
from pathlib import Path

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources import Listing, Sample
from imagesprint.records.manifest import ClassInfo

_VALIDATION_FOLDERS = ("val", "validation")
_LAYOUT = "the layout is SOURCE/train/CLASS/*.jpg and SOURCE/val/CLASS/*.jpg, or SOURCE/CLASS/*.jpg"


class ClassFolders:
    """Images in class folders below `path`."""

    kind: str = "class-folders"

    def __init__(self, path: Path) -> None:
        self.path = path

    def scan(self) -> Listing:
        """Return all samples; without "validation" where the tree has no such folder.

        Raises DataError for a class without train images, UsageError for a folder without class folders.
        """
        try:
            return self._scan()
        except OSError as error:
            raise DataError(
                f"cannot read {error.filename}: {error.strerror}", "make it readable, or remove it from the source"
            ) from error

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample's file. Raises DataError if it cannot be read."""
        path = self.path / sample.location
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}",
                "make it readable, or remove it, then give the same command again",
            ) from error

    def _scan(self) -> Listing:
        folders = self._split_folders()
        train = folders["train"]
        classes = _visible_folders(train)
        if not classes:
            raise UsageError(f"there are no class folders in {train}", _LAYOUT)
        labels = {name: label for label, name in enumerate(classes)}
        if "validation" in folders:
            unknown = sorted(set(_visible_folders(folders["validation"])) - set(labels))
            if unknown:
                raise DataError(
                    f"class {unknown[0]!r} is in {folders['validation']} but not in {train}"
                    + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""),
                    "give it training images, or remove it; are the folders of both splits named alike?",
                )
        splits = {split: self._samples(folder, labels) for split, folder in folders.items()}
        _check_every_class(classes, splits["train"], train)
        if "validation" in splits and not splits["validation"]:
            raise DataError(f"there are no images in {folders['validation']}", _LAYOUT)
        return Listing(
            classes=tuple(ClassInfo(name, synset=name, text=name) for name in classes),
            splits=splits,
            notes=tuple(note for folder in folders.values() for note in _stray_files(folder)),
        )

    def _split_folders(self) -> dict[str, Path]:
        """Return the folder of each split; one tree is all "train"."""
        validation = [self.path / name for name in _VALIDATION_FOLDERS if _visible_folders(self.path / name)]
        # A folder named train that holds images, not folders, is a class of that name.
        if not _visible_folders(self.path / "train"):
            if validation:
                raise UsageError(f"{self.path} has {validation[0].name} but no train folder with classes", _LAYOUT)
            return {"train": self.path}
        if len(validation) > 1:
            raise UsageError(f"{self.path} has both val and validation", "remove or rename one of them")
        return {"train": self.path / "train", **({"validation": validation[0]} if validation else {})}

    def _samples(self, folder: Path, labels: dict[str, int]) -> list[Sample]:
        samples = []
        for class_name in _visible_folders(folder):
            for path, num_bytes in _files(folder / class_name, seen=frozenset()):
                location = os.path.relpath(path, self.path)
                samples.append(Sample(os.path.basename(path), location, labels[class_name], num_bytes))
        return samples


def _files(folder: Path | str, seen: frozenset[tuple[int, int]]) -> list[tuple[str, int]]:
    """Return (path, size) of every visible regular file below `folder`; links are followed, but not in circles."""
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return []
    found = []
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        status = entry.stat()
        if stat.S_ISDIR(status.st_mode):
            found += _files(entry.path, seen | {identity})
        elif stat.S_ISREG(status.st_mode):
            found.append((entry.path, status.st_size))
    return found


def _visible_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder` that are not hidden; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _stray_files(folder: Path) -> list[str]:
    strays = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    if not strays:
        return []
    return [f"{len(strays)} files of {folder} lie in no class folder and are left out, the first of them {strays[0]}"]


def _check_every_class(classes: list[str], samples: list[Sample], folder: Path) -> None:
    if not samples:
        raise DataError(f"there are no images in {folder}", _LAYOUT)
    present = {sample.label for sample in samples}
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise DataError(
            f"class {empty[0]!r} has no images in {folder}"
            + (f" (and {len(empty) - 1} more have none)" if len(empty) > 1 else ""),
            "give it training images, or remove its folder",
        )
