"""One tar of images a class, as ImageNet-21k is downloaded: SOURCE/n00004475.tar, …, or in SOURCE/train and SOURCE/val.

Classes are numbered in the sorted order of the tars' names. The tars may lie in a folder below, such as winter21_whole.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Final

from imagesprint.errors import DataError, UsageError
from imagesprint.images.finding import Tally, is_no_image
from imagesprint.prepare.names import is_test, some, split_of
from imagesprint.prepare.sources.downloads import Found, check_copies, find_files, offer_validation, shows_images
from imagesprint.prepare.sources.folders import holds_split
from imagesprint.prepare.sources.source import Listing, SourceImage, check_every_class, plain_classes
from imagesprint.prepare.sources.tars import TarSource

_SYNSET = re.compile(r"n\d{8}")  # WordNet's ids
_SHARD = re.compile(r"(.*[-_])?\d+")
COMPRESSED: Final = {  # by what tars are called then: the program that did it, and the command that unpacks
    ".tar.gz": ("gzip", "gunzip"),
    ".tgz": ("gzip", "gunzip"),
    ".tar.bz2": ("bzip2", "bunzip2"),
    ".tbz2": ("bzip2", "bunzip2"),
    ".tar.xz": ("xz", "unxz"),
    ".txz": ("xz", "unxz"),
    ".tar.zst": ("zstd", "unzstd --rm"),
    ".tar.lz4": ("lz4", "lz4 -dm --rm"),
}


class SynsetTars(TarSource):
    """The tars in the folder `path`; without "validation" where there are none in a folder of that split."""

    kind = "synset-tars"
    form = "one tar a class: n00004475.tar, … (or in train/ and val/)"

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether there are more tars than folders beside them, which would be those of classes.

        Or folders of synsets and tars of other synsets: half of them is unpacked. Or nothing but compressed tars. But
        not beside a folder of training images.
        """
        found = find_files(path, ".tar")
        if not found.places:
            compressed = find_files(path, *COMPRESSED)
            return len(compressed.files) > 1 and not compressed.beside
        folders = {_folder_name(folder) for folder in found.beside}
        if any(split_of(name) == "train" for name in folders) and holds_split(path):
            return False  # train.tar, val.tar and test.tar, left beside what they held
        packed = {_stem(file) for file in found.files} - folders
        is_half_unpacked = all(any(map(_SYNSET.fullmatch, names)) for names in (folders, packed))
        return len(found.files) > len(folders) or is_half_unpacked or len(found.places) > 1

    def _scan(self) -> Listing:
        found = find_files(self.path, ".tar")
        found.check(self.path)
        if not found.files:
            raise self._compressed()
        splits = _sort(found)
        if not splits["train"]:
            raise UsageError(f"there are no tars of train in {self.path}", self.form)
        classes = sorted(splits["train"])
        labels = {name: label for label, name in enumerate(classes)}
        unknown = sorted(set(splits["validation"]) - set(labels))
        if unknown:
            raise DataError(
                f"{splits['validation'][unknown[0]]} is a class of validation, but not of train in {self.path}",
                "add its training images, or remove it",
            )
        notes = [*found.notes(self.path), *self._check_folders(found, set(classes))]
        self._check_names(list(splits["train"].values()))
        left_out = [*splits[""].values(), *splits["test"].values()]
        if left_out:
            notes.append(f"tars of no split, or of another, are left out: {some(left_out)}")
        others = Tally()
        samples = {
            split: self._samples(splits[split], labels, others) for split in ("train", "validation") if splits[split]
        }
        check_every_class(classes, samples["train"], self.path)
        self._check_depth(splits["train"], samples["train"])
        notes += others.note("files in the tars that are no images by their names are left out")
        return Listing(
            plain_classes(classes),
            samples,
            (*notes, *self._tars.notes, *_doubts(classes)),
            offer_validation(found, self.path, list(splits["test"].values())),
        )

    def _samples(self, files: dict[str, str], labels: dict[str, int], others: Tally) -> list[SourceImage]:
        """Return the images in `files`, which are by class; count in `others` what is none.

        Raises DataError for what is no tar of one class.
        """
        samples = []
        for name, file in sorted(files.items()):
            for member in self._tars.members(file):
                location = f"{file}/{member.path}"
                if member.name.lower().endswith(".cls"):
                    raise DataError(
                        f"{location} is a label, as in shards of WebDataset, but its image does not lie next to it",
                        "write the shards with KEY.jpg and KEY.cls one after the other",
                    )
                if is_no_image(member.name):
                    others.add(location)
                else:
                    samples.append(member.image(file, labels[name]))
        return samples

    def _check_names(self, files: list[str]) -> None:
        """Raise UsageError where all tars are named like splits: the classes are in them."""
        stems = [_stem(file) for file in files]
        if not all(split_of(stem) is not None or is_test(stem) for stem in stems):
            return
        self._tars.members(files[0])  # it may be no tar at all
        raise UsageError(
            f"{some(files)} {'are' if len(files) > 1 else 'is'} named like a split, not like a class",
            "unpack each into a folder of its name, if the folders in it are the classes: tar -xf FILE; if they are "
            "shards of WebDataset, write them with KEY.cls or KEY.json for each image",
        )

    def _check_depth(self, files: dict[str, str], samples: list[SourceImage]) -> None:
        """Raise UsageError where every tar has images in several folders beside each other: those are the classes."""
        places = [files[name] for name in sorted(files)]
        folders: list[set[str]] = [set() for _ in places]
        for sample in samples:
            folders[sample.label].add(os.path.dirname(sample.location[len(places[sample.label]) + 1 :]))
        if all(map(_are_apart, folders)):
            raise UsageError(
                f"{places[0]} holds images in several folders, {some(sorted(folders[0]))}"
                + (", and so does every other tar" if len(places) > 1 else ""),
                "if those are the classes, unpack the tars into one folder, and give that: tar -xf FILE -C NEW",
            )

    def _check_folders(self, found: Found, classes: set[str]) -> list[str]:
        """Return the note that folders beside the tars are left out. Raises DataError for one of a class of its own."""
        for folder in found.beside:
            if _folder_name(folder) not in classes and shows_images(self.path / folder):
                raise DataError(
                    f"{folder} in {self.path} is a folder of images, {some(sorted(classes))} are tars: "
                    "some classes are unpacked and some are not",
                    "unpack the others too, or move the folder away if it is no class",
                )
        if not found.beside:
            return []
        return [f"of {self.path}, the tars are used and the folders {some(found.beside)} left out"]

    def _compressed(self) -> DataError:
        files = find_files(self.path, *COMPRESSED).files
        first = self.path / files[0]
        name, program = next(said for suffix, said in COMPRESSED.items() if files[0].lower().endswith(suffix))
        more = f" (as {len(files) - 1} more are)" if len(files) > 1 else ""
        return DataError(
            f"{first} is compressed with {name}{more}, so no image in it can be read in place",
            f"undo the compression, but leave the tars: {program} {shlex.quote(str(first.parent))}/*{first.suffix}",
        )


def _sort(found: Found) -> dict[str, dict[str, str]]:
    """Return the tars of "train", "validation", "test" and "" by class, by what their folders say.

    Those in no folder of a split are "train" where no others are. Raises DataError for one that is there twice.
    """
    splits: dict[str, dict[str, str]] = {"train": {}, "validation": {}, "test": {}, "": {}}
    for file in found.files:
        folder = os.path.dirname(file.removeprefix(found.places[0]))
        split = split_of(folder) or ("test" if is_test(folder) else "")
        other = splits[split].setdefault(_stem(file), file)
        if other != file:
            raise DataError(f"{other} and {file} are of one class", "move one of them away")
    if not splits["train"]:
        splits["train"], splits[""] = splits[""], {}
    for split, files in splits.items():
        check_copies(split, list(files.values()))
    return splits


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _folder_name(folder: str) -> str:
    return os.path.basename(folder.rstrip("/"))


def _are_apart(folders: set[str]) -> bool:
    """Return whether some of `folders` are not below the uppermost of them."""
    top = min(folders, key=len)
    return bool(top) and any(folder != top and not folder.startswith(f"{top}/") for folder in folders)


def _doubts(classes: list[str]) -> tuple[str, ...]:
    """Return the doubt about what is taken for classes."""
    if len(classes) == 1:
        return (f"there is a single tar, {classes[0]}, so a single class: is it the right folder?",)
    if all(map(_SHARD.fullmatch, classes)):
        return (f"the tars are named like shards of one set, {some(classes)}: is each of them a class?",)
    return ()
