"""WebDataset shards: tars whose members KEY.jpg and KEY.cls or KEY.json are one sample, as timm and img2dataset write.

    imagenet1k-train-0000.tar, …  imagenet1k-validation-00.tar, …      or  train/00000.tar, …  val/00000.tar, …

KEY is a member's path up to the first dot in its name; what else is before the last dot does not matter: KEY.image.jpg.
The label is the text of KEY.cls (or .class, .label), else "label" (or "cls", "class") in KEY.json: a number that counts
the classes from 0, or a class's name. Numbered classes are named by classes.txt or labels.txt beside the shards or in
the folder that is given, one a line, else by "class_name" (or "label_name", "synset") in KEY.json, else by their
numbers. Hugging Face's ImageNet-1k, as it came before it was parquet, has the synset at the end of an image's name
instead: n01440764_10026_n01440764.JPEG.
"""

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from imagesprint.errors import DataError
from imagesprint.images.finding import Tally, is_image
from imagesprint.prepare.names import is_test, some
from imagesprint.prepare.sources.downloads import find_files, number_classes, sort_by_split
from imagesprint.prepare.sources.source import Listing, SourceImage, check_every_class, plain_classes
from imagesprint.prepare.sources.tars import Member, TarSource, first_paths

_LABEL_KEYS = ("label", "cls", "class")
_NAME_KEYS = ("class_name", "label_name", "synset")
_NAME_FILES = ("classes.txt", "labels.txt")
_NAMED = re.compile(r".+_\d+_(n\d{8})")
_LABELS = ("cls", "class", "label", "json")  # the last part of a member's name; the first that is there is read
_READERS = 8  # threads
_TRIED = 5  # tars


class WebDataset(TarSource):
    """The shards in the folder `path`.

    `scan` reads no image, but each KEY.cls or, for want of it, KEY.json: a read of a few bytes for each, right behind
    the header that is read anyway.
    """

    kind = "webdataset"
    files = ("*.tar", *(f"*{name}" for name in _NAME_FILES))
    form = "WebDataset: NAME-train-0000.tar, … and NAME-val-0000.tar, … with KEY.jpg and KEY.cls or KEY.json"

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether the first of the tars begins with samples, passing over those without files or of test."""
        found = find_files(path, ".tar")
        if not found.files or found.is_by_the_way(path):
            return False
        begins = (first_paths(path / file) for file in sorted(found.files, key=is_test)[:_TRIED])
        return are_samples(next(filter(None, begins), []))

    def _scan(self) -> Listing:
        found = find_files(self.path, ".tar")
        splits = sort_by_split(found, self.path)
        with ThreadPoolExecutor(_READERS) as readers:
            read = {split: list(readers.map(self._read_shard, names)) for split, names in splits.files.items()}
        shards = [shard for entries in read.values() for shard in entries]
        _check_labels(shards)
        names = self._names_beside(found.places[0])
        classes, samples, more = _number(read, names, f"the shards of {self.path}")
        without_image = sum(shard.without_image for shard in shards)
        if without_image:
            said = "samples have no image and are" if without_image > 1 else "sample has no image and is"
            more += (f"{without_image:,} {said} left out",)
        return Listing(plain_classes(classes), samples, (*splits.notes, *more, *self._tars.notes), splits.offer)

    def _read_shard(self, archive: str) -> "_Shard":
        samples: dict[str, dict[str, Member]] = {}
        for member in self._tars.members(archive):
            key, extension = _split_path(member.path)
            samples.setdefault(key, {})[extension] = member
        shard = _Shard(archive)
        said_by: dict[Member, Member] = {}
        for key, members in samples.items():
            image = _image_of(key, members, archive)
            if image is None:
                shard.without_image += 1
            elif label := _label_of(key, members, archive):
                said_by[image] = label
            elif named := _NAMED.fullmatch(image.stem):
                shard.samples.append((image, named[1]))
            else:
                shard.add_unlabelled(f"{key} (of {', '.join(sorted(members))})")
        for (image, member), data in zip(said_by.items(), self._tars.contents(archive, said_by.values()), strict=True):
            shard.add(image, member, data)
        self._add_names(shard, samples)
        return shard

    def _add_names(self, shard: "_Shard", samples: dict[str, dict[str, Member]]) -> None:
        """Add the names of classes that are in the JSON of samples whose label is in .cls: of one sample a class."""
        firsts: dict[int, Member] = {}
        for image, label in shard.samples:
            members = samples[_split_path(image.path)[0]]
            if isinstance(label, int) and label not in firsts and {"cls", "json"} <= members.keys():
                firsts[label] = members["json"]
        contents = self._tars.contents(shard.archive, firsts.values())
        for (label, member), data in zip(firsts.items(), contents, strict=True):
            shard.add_name(label, _parse(f"{shard.archive}/{member.path}", data).name)

    def _names_beside(self, folder: str) -> list[str] | None:
        """Return the lines of the first file of names in `folder` or above it, None where there is none."""
        for path in (place / name for place in (self.path / folder, self.path) for name in _NAME_FILES):
            if path.exists():
                lines = path.read_text("utf-8-sig", "replace").rstrip().splitlines()
                # "0:daisy", as TensorFlow's slim has it, or "daisy".
                return [line.removeprefix(f"{i}:").strip() for i, line in enumerate(lines)]
        return None


@dataclass
class _Shard:
    """What a shard holds: images with labels, names by label, and what has no label or no image."""

    archive: str
    samples: list[tuple[Member, int | str]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    unlabelled: Tally = field(default_factory=Tally)
    without_image: int = 0

    def add(self, image: Member, said_by: Member, data: bytes) -> None:
        """Add `image` with the label in the member `said_by`, whose bytes are `data`."""
        place = f"{self.archive}/{said_by.path}"
        if not said_by.path.lower().endswith(".json"):
            self.samples.append((image, _to_label(place, data.decode("utf-8", "replace"))))
            return
        said = _parse(place, data)
        if said.label is None:
            self.add_unlabelled(f"{said_by.path} (with {some(said.keys) or 'nothing'} in it)")
            return
        label = _to_label(place, said.label)
        self.samples.append((image, label))
        if isinstance(label, int):
            self.add_name(label, said.name)

    def add_unlabelled(self, what: str) -> None:
        self.unlabelled.add(f"{what} in {self.archive}")

    def add_name(self, label: int, name: str | None) -> None:
        """Add the name of a class, if the JSON of a sample has one."""
        if name is not None:
            self.names.setdefault(label, name)


class _Said(NamedTuple):
    """What the JSON of a sample says, None where nothing, and what is in it."""

    label: Any
    name: str | None
    keys: list[str]


def are_samples(paths: list[str]) -> bool:
    """Tell whether `paths`, those of the first files of a tar, are those of samples."""
    keys: dict[str, set[str]] = {}
    for path in paths:
        key, extension = _split_path(path)
        keys.setdefault(key, set()).add(extension)
    return any(
        any(_is_image(extension) for extension in extensions)
        and (any(map(_is_of_sample, extensions)) or _NAMED.fullmatch(key.rpartition("/")[2]))
        for key, extensions in keys.items()
    )


def _split_path(path: str) -> tuple[str, str]:
    """Return key and extension, the latter in lower case."""
    folder, slash, name = path.rpartition("/")
    key, _, extension = name.partition(".")
    return folder + slash + key, extension.lower()


def _is_of_sample(extension: str) -> bool:
    """Return whether a member beside an image, of that extension, makes the two a sample; ImageNet's .xml do not."""
    return not _is_image(extension) and _last_part(extension) not in ("", "xml")


def _last_part(extension: str) -> str:
    return extension.rpartition(".")[2]


def _is_image(extension: str) -> bool:
    return is_image(f"x.{extension}")


def _image_of(key: str, members: dict[str, Member], archive: str) -> Member | None:
    images = [extension for extension in members if _is_image(extension)]
    plain = [extension for extension in images if "." not in extension] or images  # rather jpg than mask.png
    if len(plain) > 1:
        raise DataError(
            f"sample {key} in {archive} has {len(plain)} images: {', '.join(plain)}",
            "prepare takes one a sample: write the shards without the others; a key has no dot in its name",
        )
    return members[plain[0]] if plain else None


def _label_of(key: str, members: dict[str, Member], archive: str) -> Member | None:
    """Return the member that says the label: KEY.cls, or what is as clear."""
    for kind in _LABELS:
        named = [extension for extension in members if _last_part(extension) == kind]
        if kind in named or len(named) == 1:
            return members[kind if kind in named else named[0]]
        if named:
            raise DataError(
                f"sample {key} in {archive} has {len(named)} labels: {', '.join(named)}",
                f"prepare reads one: name it KEY.{kind}",
            )
    return None


def _parse(place: str, data: bytes) -> _Said:
    try:
        content = json.loads(data)
    except ValueError as error:  # of Unicode, too
        raise DataError(f"{place} is no JSON: {error}", "write that shard anew") from error
    except RecursionError as error:
        raise DataError(f"{place} is JSON that is nested too deep", "write that shard anew") from error
    content = content if isinstance(content, dict) else {"label": content}
    return _Said(
        next((content[key] for key in _LABEL_KEYS if content.get(key) is not None), None),
        next((content[key] for key in _NAME_KEYS if isinstance(content.get(key), str)), None),
        sorted(content),
    )


def _to_label(place: str, said: Any) -> int | str:
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    if isinstance(said, str):
        said = said.strip()
        number = re.fullmatch(r"(-?\d{1,18})(?:\.0*)?", said, re.ASCII)
        said = int(number[1]) if number else said
    if type(said) is int and said >= 0:
        return said
    if isinstance(said, str) and said and said.isprintable():
        return said
    raise DataError(
        f"{place} says the label {said!r:.60}", "a label counts the classes from 0, or is the name of a class"
    )


def _check_labels(shards: list[_Shard]) -> None:
    """Raise DataError for samples without a label, or labels of two kinds."""
    unlabelled = sum(shard.unlabelled.count for shard in shards)
    if unlabelled:
        first = next(shard.unlabelled.first for shard in shards if shard.unlabelled.count)
        total = unlabelled + sum(len(shard.samples) for shard in shards)
        raise DataError(
            f"{unlabelled:,} of {total:,} samples have no label, the first of them {first}",
            'a label is read from KEY.cls, or from "label" in KEY.json: write the shards with one of them',
        )
    kinds: dict[type, str] = {}
    for shard in shards:
        for member, label in shard.samples:
            if type(label) not in kinds:
                kinds[type(label)] = f"{label!r} of {shard.archive}/{member.path}"
    if len(kinds) > 1:
        raise DataError(
            f"some labels are numbers and some are names: {' and '.join(kinds.values())}",
            "write the shards with one kind of label",
        )


def _number(
    splits: dict[str, list[_Shard]], names: list[str] | None, place: str
) -> tuple[list[str], dict[str, list[SourceImage]], tuple[str, ...]]:
    """Return the classes in the order of their labels, the samples of each split, and notes."""
    shards = [shard for entries in splits.values() for shard in entries]
    words = sorted({label for shard in shards for _, label in shard.samples if isinstance(label, str)})
    numbers = {word: number for number, word in enumerate(words)}
    samples = {
        split: [
            member.image(shard.archive, numbers[label] if isinstance(label, str) else label)
            for shard in entries
            for member, label in shard.samples
        ]
        for split, entries in splits.items()
    }
    if words:
        check_every_class(words, samples["train"], place)
        return words, samples, ()
    classes, notes = number_classes(names, samples, place)
    if names is None:
        known = _said_names(shards)
        classes = [known.get(label, number) for label, number in enumerate(classes)]
    times = Counter(classes)
    return [name if times[name] == 1 else f"{name} ({i})" for i, name in enumerate(classes)], samples, notes


def _said_names(shards: list[_Shard]) -> dict[int, str]:
    """Return the names in the samples' JSON by label. Raises DataError for a label of two names."""
    names: dict[int, tuple[str, str]] = {}
    for shard in shards:
        for label, name in shard.names.items():
            other, where = names.setdefault(label, (name, shard.archive))
            if other != name:
                raise DataError(
                    f"label {label} is {other!r} in {where}, but {name!r} in {shard.archive}",
                    "are the shards of one set?",
                )
    return {label: name for label, (name, _) in names.items()}
