"""The source most people have: one folder a class, in SRC/train and SRC/val, or in one tree.

    SRC/train/CLASS/*.jpg  and  SRC/val/CLASS/*.jpg
    SRC/train/CLASS/*.jpg  or  SRC/CLASS/*.jpg, to be split by --val-fraction

The folders of the splits may have any of the names in `names.SPLIT_WORDS`, in any case and within longer ones
(imagenet_val). Classes are numbered in the sorted order of their folders' names. Images may lie in folders below the
class folder too, but not in these alone, as that is mostly one folder too many around the classes: only CLASS/images,
or a folder of one name in every class. Litter is passed over, and so are files that by their names are no images; every
other file is tried as an image, whatever its name (see `images.finding`).

Tiny ImageNet is read as it is unpacked: its val/val_annotations.txt has the classes of val/images, words.txt their
words. Its boxes are in pixels, of images whose sizes are not known before they are read: they are left out.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from imagesprint.errors import DataError, UsageError
from imagesprint.images.finding import Tally, Walk, is_image, visible
from imagesprint.prepare.names import SPLIT_WORDS, TEST_WORDS, and_more, some, split_of
from imagesprint.prepare.sources.folders import (
    ANNOTATIONS,
    LAYOUT,
    FolderSource,
    find_splits,
    holds_split,
    inner_folder,
    split_names,
    stray_files,
    unwrap,
    visible_folders,
)
from imagesprint.prepare.sources.ilsvrc import to_classes
from imagesprint.prepare.sources.source import GIVE_IMAGES, Listing, SourceImage, check_every_class, plain_classes
from imagesprint.records.manifest import ClassInfo

_IMAGES: Final = {"images", "image", "imgs", "img", "JPEGImages", "photos"}  # CLASS/images/*.jpg
# Where programs that train write to; a folder of such a name that holds images itself is a class nevertheless.
_OUTPUTS: Final = {"runs", "wandb", "mlruns", "lightning_logs", "tb_logs", "logs", "checkpoints", "output", "outputs"}
_NO_CLASSES: Final = {*_OUTPUTS, *TEST_WORDS, *(word for words in SPLIT_WORDS.values() for word in words)}
_WANTED, _WORDS = "wnids.txt", "words.txt"  # Tiny ImageNet's classes, and the words of many more
_ANY: Final = -1


class ClassFolders(FolderSource):
    """Images in class folders below `path`."""

    kind = "class-folders"
    files = tuple(f"*{name}" for name in (ANNOTATIONS, _WANTED, _WORDS))
    form = "class folders: train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg"

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether there are folders, which may be those of classes."""
        return bool(visible_folders(path)) and inner_folder(path) is None

    def _scan(self) -> Listing:
        folders = find_splits(self.path)
        train = folders["train"]
        classes = self._classes(train)
        labels = {name: label for label, name in enumerate(classes)}
        homes = {split: self._homes(folder, train, labels) for split, folder in folders.items()}
        walk = Walk([home for split in homes.values() for home in split])
        strays = [note for folder in folders.values() for note in stray_files(folder, walk)]
        splits = {
            split: [
                SourceImage(location, label, num_bytes)
                for home, label in homes[split].items()
                for location, num_bytes in self._list_images(walk, home)
            ]
            for split in homes
        }
        if not splits["train"]:
            raise DataError(f"there are no images in {train}", LAYOUT)
        astray = f"links to the images of other classes are passed over, such as {walk.astray.first}"
        check_every_class(classes, splits["train"], train, astray if walk.astray.count else GIVE_IMAGES)
        below = self._check_depth(train, classes, splits["train"])
        if "validation" in splits:
            if not splits["validation"]:
                raise DataError(f"there are no images in {folders['validation']}", LAYOUT)
            if _ANY in homes["validation"].values():
                splits["validation"] = _annotated(splits["validation"], folders["validation"], labels)
                below.append(f"the boxes beside {train} and {folders['validation']} are left out: they are in pixels")
        infos = self._class_infos(classes, train)
        beside, doubts = self._beside(folders, classes, walk), _doubts(classes, train, train == self.path)
        notes = (*strays, *below, *beside, *walk.notes(), *doubts)
        return Listing(infos, splits, notes, self._offer(folders, classes))

    def _classes(self, train: Path) -> list[str]:
        classes = visible_folders(train)
        if train == self.path:
            classes = [name for name in classes if not _is_output(train / name)]
        if not classes:
            raise UsageError(f"there are no class folders in {train}", LAYOUT)
        return classes

    def _homes(self, folder: Path, train: Path, labels: Mapping[str, int]) -> dict[Path, int]:
        """Return the folders of a split's images with their labels; _ANY where each file has one of its own."""
        names = list(labels) if folder == train else visible_folders(folder)
        unknown = sorted(name for name in set(names) - set(labels) if any(visible(folder / name)))
        if unknown == names == ["images"]:
            if (folder / ANNOTATIONS).exists():
                return {folder / "images": _ANY}
            raise DataError(
                f"{folder / 'images'} holds images, but nothing says of which classes they are",
                f"put {ANNOTATIONS} beside it, if they are Tiny ImageNet's, or sort them into one folder a class",
            )
        if unknown:
            raise DataError(
                f"class {unknown[0]!r} is in {folder} but not in {train}{and_more(unknown)}",
                f"{GIVE_IMAGES}; are the folders of both splits named alike?",
            )
        return {folder / name: labels[name] for name in names if name in labels}

    def _check_depth(self, train: Path, classes: Sequence[str], samples: Sequence[SourceImage]) -> list[str]:
        """Return the note that images lie in folders below class folders that hold images too.

        Raises UsageError for a class that has images in folders below its own alone, unless that is plainly meant.
        """
        start = len(train.relative_to(self.path).parts) + 1
        layers: list[set[str]] = [set() for _ in classes]  # of each class the folders with images in it; "" is its own
        for sample in samples:
            layers[sample.label].add("/".join(sample.location.split("/")[start:-1]))
        deep = [label for label, names in enumerate(layers) if "" not in names]
        inner = [layers[label] for label in deep]
        names = set().union(*inner)
        is_one = len(names) == 1 and not any("/" in name or split_of(name) for name in names)
        plain = is_one and (names <= _IMAGES or 1 < len(deep) == len(classes))
        if deep and not plain:
            raise _too_deep(train, [classes[label] for label in deep], len(deep) == len(classes), inner)
        below = Tally()
        for label in set(range(len(classes))) - set(deep):
            for name in sorted(layers[label] - {""}):
                below.add(str(train / classes[label] / name))
        return below.note("images in folders below class folders are taken for those of the classes")

    def _beside(self, folders: Mapping[str, Path], classes: Sequence[str], walk: Walk) -> list[str]:
        """Return the note of what lies beside the splits, or the classes, and is not used, such as test."""
        if folders["train"] == self.path:
            left_out = sorted(set(visible_folders(self.path)) - set(classes))
            return [f"of {self.path}, {some(left_out, most=5)} is left out: no class by its name"] if left_out else []
        others, files = walk.look(self.path)
        used = [folder.relative_to(self.path).parts[0] for folder in folders.values()]
        left_out = [name for name in others if name not in used and not walk.leads_home(self.path / name)]
        left_out += [name for name in files if name not in (_WANTED, _WORDS)]
        if not left_out:
            return []
        verb = "are" if len(used) > 1 else "is"
        return [f"of {self.path}, {' and '.join(used)} {verb} used and {some(left_out, most=5)} left out"]

    def _class_infos(self, classes: Sequence[str], train: Path) -> tuple[ClassInfo, ...]:
        """Return the classes, with the words that Tiny ImageNet has for them."""
        if not (self.path / _WANTED).exists():
            return plain_classes(classes)
        rows = [line.split("\t", 1) for line in _lines(self.path / _WORDS)]
        words = {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
        wanted = [line.strip() for line in _lines(self.path / _WANTED)]
        return to_classes(classes, {name: words.get(name, name) for name in wanted if name}, train, _WANTED)

    def _offer(self, folders: Mapping[str, Path], classes: Sequence[str]) -> str:
        """Return what might become the validation split, where there is none."""
        if "validation" in folders:
            return ""
        if folders["train"] == self.path:
            above = _source_above(self.path)
            return f"give {above} as SOURCE, which holds the other split, too" if above else ""
        for name in visible_folders(self.path):
            inside = set(visible_folders(unwrap(self.path / name)))
            if (
                self.path / name not in (folders["train"], *folders["train"].parents)
                and inside
                and inside <= set(classes)
            ):
                link = f"ln -s {shlex.quote(name)} {shlex.quote(str(self.path / 'val'))}"
                return f"{link} makes {name}, which has the same classes, the validation split"
        return ""


def _annotated(samples: Sequence[SourceImage], folder: Path, labels: Mapping[str, int]) -> list[SourceImage]:
    """Return the samples in `folder` with the labels of its table. Raises DataError if they do not fit together."""
    table = folder / ANNOTATIONS
    found: dict[str, int] = {}
    for line in filter(None, _lines(table)):
        name, synset = (*line.split("\t"), "")[:2]  # its box follows
        if synset not in labels:
            raise DataError(f"{table} has the row {line!r}, which names no class", "unpack it again")
        found[name] = labels[synset]
    missing = sorted(sample.location for sample in samples if sample.name not in found)
    if missing:
        raise DataError(f"{table} has no row for {missing[0]}", "unpack it again, or remove what is not in it")
    if len(samples) != len(found):
        raise DataError(
            f"{table} has {len(found)} rows, but {folder} holds {len(samples)} images",
            "is the archive unpacked completely?",
        )
    return [replace(sample, label=found[sample.name]) for sample in samples]


def _too_deep(train: Path, deep: Sequence[str], everywhere: bool, inner: Sequence[set[str]]) -> UsageError:
    """Return the error for the class folders `deep`, whose images lie in the folders `inner` of each alone."""
    firsts = [name for names in inner for name in {name.partition("/")[0] for name in names}]
    sources = [str(train / name) for name in deep if holds_split(train / name)]
    if sources:
        hint = f"give {' or '.join(sources[:3])} as SOURCE"
    elif all(map(split_of, firsts)):
        hint = "let the splits be the outer folders: SOURCE/train/CLASS and SOURCE/val/CLASS"
    elif everywhere and len(set(firsts)) < len(firsts):  # to move them one up would mix what lies in them
        hint = (
            f"if {' and '.join(deep[:3])} are splits, name them train and val; if one of them holds the classes, give "
            "that as SOURCE; if they are classes, put the images straight into them"
        )
    elif everywhere:
        hint = (
            f"if the folders in it are classes, move them one up: mv {shlex.quote(str(train))}/*/* "
            f"{shlex.quote(str(train))}, and remove the empty folders; if not, put the images straight into those"
        )
    else:
        hint = f"move it out of {train} if it is no class; if it is one, put its images straight into it"
    return UsageError(f"class folder {train / deep[0]} holds folders alone, no images", hint)


def _source_above(path: Path) -> Path | None:
    """Return the folder above `path` if that is the folder of one split there, beside that of the other."""
    path = path.resolve()
    try:
        names = split_names(path.parent) if split_of(path.name) else {}
    except (OSError, DataError):  # what is above is none of this source's
        return None
    is_clear = len(names) > 1 and all(len(found) == 1 for found in names.values())
    return path.parent if is_clear and [path.name] in names.values() else None


def _is_output(folder: Path) -> bool:
    return folder.name.lower() in _OUTPUTS and not any(map(is_image, visible(folder)[1]))


def _doubts(classes: Sequence[str], train: Path, one_tree: bool) -> list[str]:
    if len(classes) == 1:
        return [f"{train} holds a single class, {classes[0]}: is it the right folder?"]
    named = [name for name in classes if one_tree and name.lower() in _NO_CLASSES]
    return [f"{' and '.join(named)} in {train} is taken for a class, as it holds images: is it one?"] if named else []


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.exists() else []
