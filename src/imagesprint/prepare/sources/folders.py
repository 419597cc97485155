"""Images that lie as files in folders: which folder holds which split of them, listing them, and reading them."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from imagesprint.errors import DataError, UsageError
from imagesprint.images.finding import Tally, Walk, is_litter, is_no_image, visible
from imagesprint.prepare.names import SPLIT_WORDS, is_test, split_of
from imagesprint.prepare.sources.remote_images import RemoteImages
from imagesprint.prepare.sources.source import Listing, Source, SourceImage, changed

LAYOUT: Final = "the layout is SOURCE/train/CLASS/*.jpg and SOURCE/val/CLASS/*.jpg, or SOURCE/CLASS/*.jpg"
_OF_MANY: Final = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar", ".parquet", ".arrow")
_FIRST: Final = 1000  # files that tell what a folder holds: half a million annotations are slow to look at
_FEW: Final = 20  # folders: among more, which are classes, none is looked into
ANNOTATIONS: Final = "val_annotations.txt"  # Tiny ImageNet's classes of the files in val/images


class FolderSource(Source):
    """A source whose images are files of their own, at `path`/`location`; with `remote` they are read from a store."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.remote: RemoteImages | None = None

    def scan(self) -> Listing:
        listing = super().scan()
        return self.remote.find(listing, self.path) if self.remote else listing

    def read_all(self, samples: Sequence[SourceImage]) -> Iterator[bytes]:
        return self.remote.read_all(samples) if self.remote else super().read_all(samples)

    def read(self, sample: SourceImage) -> bytes:
        if self.remote:
            return self.remote.read(sample)
        path = os.path.join(self.path, sample.location)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.readall()
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}",
                "make it readable, or remove it, then give the same command again",
            ) from error
        if len(data) != sample.num_bytes:
            raise changed(sample.location, f"{sample.num_bytes} bytes before, {len(data)} now")
        return data

    def _list_images(self, walk: Walk, folder: Path) -> list[tuple[str, int]]:
        """Return (location, size) of every image below `folder`."""
        before, after = len(str(folder)), str(folder.relative_to(self.path))
        return [(after + path[before:], num_bytes) for path, num_bytes in walk.images(folder)]


def visible_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder` that are no litter; none where there is no such folder.

    Raises DataError for a broken link, OSError.
    """
    return visible(folder)[0] if folder.is_dir() else []


def holds_images(folder: Path) -> bool:
    """Return whether there are files straight in `folder` that may be images."""
    return not all(map(is_no_image, visible(folder)[1]))


def inner_folder(path: Path) -> Path | None:
    """Return the folder in `path` that holds a source, where `path` is no more than a folder around it; else None.

    That is the only folder there is, if it holds no images itself, or the only one that holds a split for training, or
    anything that may be an image or many: annotations and papers may lie beside it.
    """
    folders = [path / name for name in visible_folders(path)]
    places = {os.path.realpath(folder) for folder in folders if not folder.is_symlink()}
    folders = [folder for folder in folders if not folder.is_symlink() or os.path.realpath(folder) not in places]
    if (len(folders) > 1 and split_names(path)) or any(map(holds_images, folders)):
        return None
    holding = [folder for folder in folders if holds_split(folder)]
    if len(folders) > 1 and not holding:
        firsts = {folder: islice(_names_below(folder), _FIRST) for folder in folders}
        folders = [
            folder
            for folder, names in firsts.items()
            if any(not is_no_image(name) or name.lower().endswith(_OF_MANY) for name in names)
        ]
    if len(folders) == 1:
        is_around = bool(holding) or (split_of(folders[0].name) is None and any(visible(folders[0])))
        return folders[0] if is_around else None
    return holding[0] if len(holding) == 1 else None


def sole_folder(path: Path, holds: Callable[[Path], bool]) -> Path | None:
    """Return the one folder in `path` that `holds` says of; None for none, several, too many, or beside splits."""
    with os.scandir(path) as entries:
        folders = [path / entry.name for entry in entries if os.path.isdir(entry.path) and not is_litter(entry.name)]
    found = [folder for folder in folders if holds(folder)] if len(folders) <= _FEW else []
    return found[0] if len(found) == 1 and not split_names(path) else None


def split_names(path: Path) -> dict[str, list[str]]:
    """Return the names of the folders in `path` that are those of a split.

    A name that is a split's word comes before one that has such a word in it. The latter may be a class, like
    bullet_train: it is a split where it holds folders, not images, and is among splits.
    """
    names = visible_folders(path)
    exact = {split: [name for name in names if name.lower() in words] for split, words in SPLIT_WORDS.items()}
    splits = {split: found for split, found in exact.items() if found}
    among_splits = any(visible_folders(path / name) for found in splits.values() for name in found)
    if not among_splits and any(
        holds_images(path / name) for name in names if split_of(name) is None and not is_test(name)
    ):
        return splits
    for split in SPLIT_WORDS:
        longer = [name for name in names if split_of(name) == split]
        longer = [name for name in longer if visible_folders(path / name) and not holds_images(path / name)]
        if split not in splits and longer:
            splits[split] = longer
    return splits


def holds_split(folder: Path) -> bool:
    """Return whether `folder` holds a folder of training images, in class folders."""
    for name in split_names(folder).get("train", []):
        for class_name in visible_folders(folder / name)[:1]:
            return not all(map(is_no_image, _names_below(folder / name / class_name)))
    return False


def find_splits(path: Path) -> dict[str, Path]:
    """Return the folder of each split in `path`, in the order of their names; `path` as "train" where it is one tree.

    Raises UsageError where it cannot be told.
    """
    named = split_names(path)
    for names in named.values():
        if len(names) > 1:
            raise UsageError(f"{path} has both {names[0]} and {names[1]}", "remove or rename one")
    found = {split: path / names[0] for split, names in sorted(named.items(), key=lambda item: item[1])}
    flat = [folder for folder in found.values() if not visible_folders(folder)]
    others = [name for name in visible_folders(path) if path / name not in found.values() and not is_test(name)]
    # One folder of such a name among others, that holds images, not folders, is a class of that name.
    if not found or (len(found) == 1 and flat and others):
        return {"train": path}
    if flat:
        raise _no_classes(flat[0], validation=flat[0] == found.get("validation"))
    if "train" not in found:
        raise UsageError(f"{path} has {found['validation'].name} but no train folder with classes", LAYOUT)
    found = {split: unwrap(folder) for split, folder in found.items()}
    if "validation" in found and named["validation"][0].lower() not in SPLIT_WORDS["validation"]:
        ours, theirs = (set(visible_folders(found[split])) for split in ("train", "validation"))
        if ours.isdisjoint(theirs):  # its name says more, and so do its folders: it is something else
            del found["validation"]
    return found


def unwrap(folder: Path) -> Path:
    """Return where the class folders are: training_set/training_set/CLASS is common."""
    while len(inner := visible_folders(folder)) == 1 and not holds_images(folder):
        classes = visible_folders(folder / inner[0])
        if not classes or holds_images(folder / inner[0]) or classes in (["images"], inner):  # inner: a link to itself
            break
        folder = folder / inner[0]
    return folder


def stray_files(folder: Path, walk: Walk) -> list[str]:
    """Return the note that files lie straight in `folder`, which holds class folders."""
    strays = Tally()
    for name in walk.look(folder)[1]:
        if name != ANNOTATIONS:
            strays.add(name)
    return strays.note(f"files of {folder} that lie in no class folder are left out")


def _names_below(folder: Path) -> Iterator[str]:
    return (entry.name for entry in Walk([folder]).files(folder))


def _no_classes(folder: Path, validation: bool) -> UsageError:
    hint = "sort its images into one folder a class"
    if validation and any(name.startswith("ILSVRC2012_val_") for name in visible(folder)[1]):
        hint += (
            ", or give the whole of Kaggle's tree: ILSVRC, with LOC_synset_mapping.txt and LOC_val_solution.csv beside "
            "it, which tell their classes"
        )
    elif validation:
        hint += "; or move it away, and --val-fraction 0.1 splits the training images"
    return UsageError(f"{folder} holds no class folders", hint)
