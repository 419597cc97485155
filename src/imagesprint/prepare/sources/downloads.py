"""What sources have in common that come as files of many images each, such as tars and tables.

Where these files lie: in SOURCE or its folder `data`, in folders of splits in either (`train/`, `data/valid/`), or the
same in a folder below: a configuration of Hugging Face's (`SOURCE/cifar10/`), its cache (`snapshots/HASH/`), or the
folder that an archive was unpacked into. Of which split each is. Whether all are there. And what a file holds that is
not what its name says.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imagesprint.errors import DataError, UsageError
from imagesprint.images.finding import is_folder, is_image, is_litter
from imagesprint.prepare.names import (
    SPLIT_WORDS,
    TEST_WORDS,
    UNFINISHED,
    Numbered,
    check_whole,
    content_of,
    is_test,
    some,
    split_of,
)
from imagesprint.prepare.sources.source import SourceImage, check_every_class

_MOST_FOLDERS = 100  # more than these are classes, and slow to look into
_COPY = re.compile(r"(.+?)(?: ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?|_copy)")
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Found:
    """Files below a source, by paths relative to it, sorted.

    `places` are the folders with files, as many as could be meant; one of "" or "FOLDER/" where all is clear. `beside`
    are the folders in that place without such files, `elsewhere` those below them that have some which are not used.
    """

    suffix: str
    places: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()

    def check(self, source: Path) -> None:
        """Raise UsageError where it is not clear which files are meant, DataError for one that is not finished."""
        if len(self.places) > 1:
            raise UsageError(
                f"several folders of {source} hold {self.suffix} files: {some(self.places, most=5)}",
                f"give one of them as SOURCE: {source / self.places[0]}",
            )
        if self.unfinished:
            raise DataError(
                f"{source / self.unfinished[0]} is a download that has not ended", "end it, or remove that file"
            )

    def is_by_the_way(self, source: Path) -> bool:
        """Tell whether images are meant rather than these: they say no split, and lie beside folders of images."""
        says_split = any(_said_split(file.removeprefix(self.places[0])) for file in self.files)
        return not says_split and any(_is_place(folder) or shows_images(source / folder) for folder in self.beside)

    def notes(self, source: Path) -> tuple[str, ...]:
        """Return what is to be said of which files are used."""
        if self.elsewhere:
            return (f"{self.suffix} files in other folders of {source} are left out: {some(self.elsewhere)}",)
        if any(self.places):
            return (f"of {source}, the {self.suffix} files in {self.places[0]} are taken",)
        return ()


def find_files(source: Path, *suffixes: str) -> Found:
    """Return the files below the folder `source` whose names end in one of `suffixes`, in any case.

    Folders below are looked into where there is nothing else in `source` that could be meant. Raises OSError.
    """
    here = _look(source, "", suffixes)
    below = dict(_look_below(source, here.beside, suffixes))
    if here.files:
        return _to_found(suffixes[0], "", here, tuple(below))
    others = [folder for folder in here.beside if not any(place.startswith(folder) for place in below)]
    if any(_is_of_images(source, folder) for folder in others):
        return Found(suffixes[0])
    if len(below) == 1:
        [(place, look)] = below.items()
        return _to_found(suffixes[0], place, look)
    return Found(suffixes[0], places=tuple(below))


class _Look(NamedTuple):
    files: list[str]
    beside: list[str]
    unfinished: list[str]


def _to_found(suffix: str, place: str, look: _Look, elsewhere: tuple[str, ...] = ()) -> Found:
    files = set(look.files)
    pending = [name for name in look.unfinished if name.endswith(".aria2") or name.rpartition(".")[0] not in files]
    return Found(suffix, (place,), tuple(sorted(files)), tuple(look.beside), elsewhere, tuple(sorted(pending)))


def _look(source: Path, folder: str, suffixes: tuple[str, ...], depth: int = 2) -> _Look:
    """Look into `folder` ("" or with a slash at its end), its folder data and its folders of splits."""
    names, folders = _list(source / folder)
    found = _Look(
        files=[folder + name for name in names if name.lower().endswith(suffixes) and not is_litter(name)],
        beside=[],
        unfinished=[
            folder + name
            for name in names
            if name.lower().endswith(UNFINISHED) and name.lower().rpartition(".")[0].endswith(suffixes)
        ],
    )
    for name in folders:
        inner = _look(source, f"{folder}{name}/", suffixes, depth - 1) if depth and _is_place(name) else None
        if inner and inner.files:
            for ours, theirs in zip(found, inner, strict=True):
                ours.extend(theirs)
        else:
            found.beside.append(f"{folder}{name}/")
    return found


def _look_below(
    source: Path, folders: Sequence[str], suffixes: tuple[str, ...], depth: int = 2
) -> Iterator[tuple[str, _Look]]:
    """Yield the folders, of `folders` or below them, that hold such files."""
    if len(folders) > _MOST_FOLDERS or depth == 0:
        return
    for folder in folders:
        look = _look(source, folder, suffixes)
        if look.files:
            if not shows_images(source / folder):
                yield folder, look
        else:  # in a cache of Hugging Face's they lie deep: datasets--OWNER--NAME/snapshots/HASH/CONFIGURATION/
            is_cache = re.search(r"(^|/)(datasets--[^/]+|snapshots)/$", folder)
            yield from _look_below(source, look.beside, suffixes, depth if is_cache else depth - 1)


def shows_images(folder: Path) -> bool:
    """Tell whether there is an image straight in `folder`, by its suffix: files without one are those of a cache."""
    return any(map(is_image, _list(folder)[0]))


def _is_of_images(source: Path, folder: str) -> bool:
    """Tell whether a folder beside may be what is meant, of a split or of classes, rather than papers or scripts."""
    inner = _list(source / folder)[1][:_MOST_FOLDERS]
    return _is_place(folder) or any(shows_images(source / folder / name) for name in ("", *inner))


def _list(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files in `folder`, in any order, and of the folders that are no litter, sorted.

    There are none in a folder that may not be read: it lies beside what is meant, or is missed there.
    """
    names: list[str] = []
    folders: list[str] = []
    with suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:  # 100,000 images, where it is the folder of a class: not a word more for each
            (folders if is_folder(entry) else names).append(entry.name)
    return names, sorted(name for name in folders if not is_litter(name))


def _is_place(name: str) -> bool:
    return name.lower().rstrip("/") == "data" or split_of(name) is not None or is_test(name)


@dataclass(frozen=True)
class Splits:
    """The files of "train" and, if there are any, "validation"; notes, and what might become the latter."""

    files: dict[str, list[str]]
    notes: tuple[str, ...]
    offer: str


def sort_by_split(found: Found, source: Path) -> Splits:
    """Return which files are of which split, by what their names or else their folders say.

    Where none says any, the name of `source` may, else all are "train". Raises UsageError without any of "train",
    DataError where one of a split is missing or they are of two sets.
    """
    found.check(source)
    said = {file: _said_split(file.removeprefix(found.places[0])) for file in found.files}
    notes = list(found.notes(source))
    if not any(said.values()):
        name = source.resolve().name.lower()  # SOURCE/train, given as SOURCE
        is_split = name in (*itertools.chain(*SPLIT_WORDS.values()), *TEST_WORDS)
        said = dict.fromkeys(said, _said_split(name) if is_split else "train")
        if not is_split:
            notes.append(f"no name of a {found.suffix} file in {source} says its split: all are taken as train")
    files = {split: [file for file in said if said[file] == split] for split in ("train", "validation", "test", "")}
    left_out = sorted(files["test"] + files[""])
    if left_out:
        notes.append(f"files of other splits are left out: {some(left_out)}")
    images = tuple(itertools.islice((folder for folder in found.beside if _is_of_images(source, folder)), 4))
    if images:
        notes.append(f"of {source}, the {found.suffix} files are used and the folders {some(images)} left out")
    if not files["train"]:
        raise UsageError(
            f"no {found.suffix} file in {source} is of train by its name or its folder's: {some(found.files)}",
            "name them train-…, or put them into a folder train (and validation alike)",
        )
    for split in ("train", "validation"):
        notes += check_set(split, files[split])
    splits = {split: files[split] for split in ("train", "validation") if files[split]}
    return Splits(splits, tuple(notes), offer_validation(found, source, files["test"]))


def offer_validation(found: Found, source: Path, test: Sequence[str]) -> str:
    """Return what might be the validation split where there is none: for a hint, "" where there is nothing."""
    if test:
        return (
            f"rename test to validation, in the names of its files or of their folder, to validate by it: {some(test)}"
        )
    path = source.resolve()
    if split_of(path.name) is None:
        return ""
    try:
        above = find_files(path.parent, found.suffix).files
    except OSError:
        return ""
    splits = {_said_split(file) for file in above}
    return f"give {path.parent} as SOURCE, which holds the other split, too" if len(splits - {"", "test"}) > 1 else ""


def _said_split(path: str) -> str:
    """Return the split that a path says by its last part that says one, "test" and "" among them."""
    for part in reversed(path.split("/")):
        split, test = split_of(part), is_test(part)
        if (split is not None) != test:
            return split or "test"
    return ""


def check_set(split: str, files: Sequence[str]) -> tuple[str, ...]:
    """Raise DataError if `files`, those of a split, are of two sets or one is missing; return notes."""
    partial = [file for file in files if re.search(r"(?i)(?<![a-z])partial(?![a-z])", file)]
    if partial:
        raise DataError(
            f"{partial[0]} is of the first part of a split alone, as Hugging Face converts large sets",
            "download the whole from the main branch; or, to use that part, rename it without the word partial",
        )
    check_copies(split, files)
    notes = check_whole(split, files)
    loose = [file for file in files if Numbered.of(os.path.basename(file)) is None]
    if 0 < len(loose) < len(files):
        numbered = next(file for file in files if file not in loose)
        raise DataError(
            f"{loose[0]} and {numbered} are of two sets of {split} files", "move one of the sets into another folder"
        )
    return notes


def check_copies(split: str, files: Sequence[str]) -> None:
    """Raise DataError for a file that is there twice: copied by hand, or left over in another folder."""
    by_name: dict[str, str] = {}
    for file in files:
        folder, name = os.path.split(file)
        stem, extension = os.path.splitext(name)
        copied = _COPY.fullmatch(stem)
        other = by_name.setdefault(name, file)
        if copied and os.path.join(folder, copied[1] + extension) in files:
            other = os.path.join(folder, copied[1] + extension)
        if other != file:
            raise DataError(f"{other} and {file} are one {split} file twice, by their names", "remove one of them")


def other_content(place: str, head: bytes) -> DataError | None:
    """Return the error that the file at `place` is something else than its name says by its first bytes, or None."""
    if not head:
        return DataError(f"{place} is empty: it has 0 bytes", "download it again, or remove it")
    content = content_of(head)
    if content is None:
        return None
    if content.program:
        return DataError(
            f"{place} is compressed with {content.name}, whatever its name says: nothing in it can be read in place",
            f"unpack it: {content.program} < FILE > FILE.plain && mv FILE.plain FILE",
        )
    return DataError(f"{place} is {content.name}, not what its name says: it begins with {head[:40]!r}", content.hint)


def number_classes(
    names: Sequence[str] | None, splits: Mapping[str, Sequence[SourceImage]], place: str
) -> tuple[list[str], tuple[str, ...]]:
    """Return the names of the classes, in the order of their labels, and notes; numbers where `names` is None.

    Raises DataError for a label beyond `names`, or a class without training images. Where there are no names, labels
    that occur nowhere are classes without images, and noted.
    """
    present = {sample.label for samples in splits.values() for sample in samples}
    count = 1 + max(present, default=0)
    if names is not None:
        if count > len(names):
            raise DataError(
                f"there is a label {count - 1} in {place}, but {len(names)} classes are named",
                "labels count from 0: are the names and the labels of the same download?",
            )
        check_every_class(names, splits["train"], place)
        return list(names), ()
    if count > _MOST_CLASSES:
        raise DataError(f"there is a label {count - 1:,} in {place}", "labels count the classes from 0")
    numbers = [str(label) for label in range(count)]
    untrained = sorted(present - {sample.label for sample in splits["train"]})
    if untrained:
        raise DataError(
            f"class {untrained[0]} has no training images in {place}, but validation images",
            "give it some, or remove it",
        )
    absent = [name for label, name in enumerate(numbers) if label not in present]
    if not absent:
        return numbers, ()
    return numbers, (
        f"{len(absent)} of the labels 0 to {count - 1} have no images in {place} ({some(absent)}): "
        "they stay classes; do the labels count the classes from 0?",
    )
