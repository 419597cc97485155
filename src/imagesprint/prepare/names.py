"""What the names of a source's files and folders say: the split, and a shard's number among how many.

One table of split words and one check of numbering serve every kind of source, so that `valid/`, `valid-00000.parquet`
and `imagenet-valid-0000.tar` mean the same, and a shard that is missing is an error wherever it is missing. And one
table of what files hold that is not what their names say, such as the page of a web server.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Final

from imagesprint.errors import DataError

SPLIT_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
}
# Never a validation split by themselves: who tunes by the test images has none left to test with.
TEST_WORDS: Final = ("test", "testing", "eval", "evaluation")

# What browsers and other programs put behind the names of downloads that have not ended.
UNFINISHED: Final = (".part", ".partial", ".filepart", ".incomplete", ".crdownload", ".download", ".aria2")

_WORD = re.compile(r"[a-z]+")
_SEQUENCE = re.compile(r"(.*?)([0-9]+)(?:\.[A-Za-z_]+)?")
_DATE: Final = re.compile(r"[0-9]{4}[-_.][0-9]{2}[-_.]$")  # before the day, of which none is missing
_SHOWN = 5  # missing numbers
_NUMBERED = re.compile(r"(?<![0-9])([0-9]+)([-_.]?)of\2([0-9]+)(?![0-9])", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """Return "train" or "validation" where the words of `name`, in any case, say one of them; None for none or both."""
    words = set(_WORD.findall(name.lower()))
    said = [split for split, meant in SPLIT_WORDS.items() if words.intersection(meant)]
    return said[0] if len(said) == 1 else None


def is_test(name: str) -> bool:
    """Return whether the words of `name` say that it holds a test split."""
    return bool(set(_WORD.findall(name.lower())).intersection(TEST_WORDS))


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first of `names`, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def and_more(things: Sized, verb: str = "") -> str:
    """Return that there are more of these `things` than the one that a message names; nothing where there are not."""
    return f" (and {len(things) - 1} more{verb})" if len(things) > 1 else ""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A name that says it is shard `number` of `total`; `stem` is what comes before that."""

    stem: str
    number: int
    total: int

    @classmethod
    def of(cls, name: str) -> "Numbered | None":
        """Return what `name` says: train-00001-of-00003 and whatever follows; None where it has no such number."""
        match = _NUMBERED.search(name)
        return match and cls(name[: match.start()], int(match[1]), int(match[3]))


def check_whole(split: str, names: Collection[str]) -> tuple[str, ...]:
    """Raise DataError if the shards of a split are of two sets, or if one of them is missing; return notes.

    `names` are those of its files, with or without folders. They may be numbered with the total (train-00000-of-00002)
    or without: 0000, 0001, … from 0 or 1 on, or from the middle, which is noted. Others are passed over.
    """
    numbered = _numbered(split, names)
    if numbered and (missing := _missing_of_total(numbered)):
        raise _missing_error(split, numbered, missing)
    notes = []
    for entry in _sequences(names):
        if len(entry.widths) > 1:
            raise DataError(
                f"{some(entry.names)} are of two sets of {split} files, numbered differently",
                "move one of the sets into another folder",
            )
        if entry.missing:
            raise DataError(
                f"of the {split} files that {entry.names[0]} is one of, {entry.missing.said}",
                "download what is missing, or number the others without a gap",
            )
        if entry.widths and entry.first:
            begin = f"the {split} files {entry.stem}… begin with number {entry.first}"
            notes.append(f"{begin}: are those before it elsewhere?")
    return tuple(notes)


def check_begun(split: str, names: Collection[str]) -> tuple[str, ...]:
    """As `check_whole`, but return a note instead where only shards behind the last one that is there are missing.

    For shards that are read where they lie: the first few of many are a common trial; a hole is an accident. Numbers
    without a total, such as part-0001, may be something else, too: what seems to be missing of them is noted.
    """
    notes = []
    numbered = _numbered(split, names)
    if numbered and (missing := _missing_of_total(numbered)):
        if missing.first[0] < max(entry.number for _, entry in numbered):
            raise _missing_error(split, numbered, missing)
        notes.append(f"{_said(split, numbered, missing)}: what is there is all that is used")
    return (
        *notes,
        *(
            f"{split} shards {entry.stem}… go up to number {entry.last}, but {entry.missing.said}"
            for entry in _sequences(names)
            if entry.missing
        ),
    )


_NumberedNames = Sequence[tuple[str, Numbered]]


def _numbered(split: str, names: Iterable[str]) -> _NumberedNames:
    """Return those of `names` that say a total.

    Raises DataError unless they differ in their numbers, beside their folders and what follows the number. That may be
    a hash of each shard's own; what stands before is the set's name.
    """
    found = [(name, entry) for name in names if (entry := Numbered.of(name.rpartition("/")[2])) is not None]
    first: dict[int, str] = {}
    for name, entry in found:
        counted, of = found[0]
        is_alike = (entry.stem, entry.total) == (of.stem, of.total)
        other = first.setdefault(entry.number, name) if is_alike else counted
        if other != name:
            raise DataError(
                f"{other} and {name} are of two sets of {split} shards", "move one of the sets into another folder"
            )
    for number, name in first.items():
        total = found[0][1].total
        if number not in _range(first, total):
            raise DataError(
                f"{name} has a number beyond those of {total:,} {split} shards",
                "move what is of another set into another folder",
            )
    return found


def _range(numbers: Collection[int], total: int) -> range:
    """Return the numbers that a set of `total` shards has; some programs count 1-of-3, 2-of-3, 3-of-3."""
    first = 1 if 0 not in numbers and total in numbers else 0
    return range(first, first + total)


@dataclass(frozen=True, slots=True)
class _Missing:
    """How many numbers of a set are missing, and the first of them: a name may say that there are billions."""

    count: int
    first: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Collection[int], expected: range) -> "_Missing | None":
        absent = (number for number in expected if number not in numbers)
        count = expected.stop - expected.start - len(numbers)
        return cls(count, tuple(itertools.islice(absent, min(count, _SHOWN)))) if count > 0 else None

    @property
    def said(self) -> str:
        shown = ", ".join(map(str, self.first)) + (", …" if self.count > _SHOWN else "")
        plural, verb = ("s", "are") if self.count > 1 else ("", "is")
        return f"{self.count:,} {verb} missing: number{plural} {shown}"


def _missing_of_total(numbered: _NumberedNames) -> _Missing | None:
    there = {entry.number for _, entry in numbered}
    return _Missing.of(there, _range(there, numbered[0][1].total))


def _said(split: str, numbered: _NumberedNames, missing: _Missing) -> str:
    return f"of {numbered[0][1].total:,} {split} shards {missing.said}"


def _missing_error(split: str, numbered: _NumberedNames, missing: _Missing) -> DataError:
    return DataError(
        f"{_said(split, numbered, missing)} (beside {numbered[0][0]})",
        "download them again, or what they came with",
    )


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Files whose names have `stem` in common, and a number without a total: `digits`, as written, with the names."""

    stem: str
    digits: dict[str, str]

    @property
    def names(self) -> list[str]:
        return sorted(self.digits.values())

    @property
    def first(self) -> int:
        return min(map(int, self.digits))

    @property
    def last(self) -> int:
        return max(map(int, self.digits))

    @property
    def widths(self) -> set[int]:
        """Of the numbers that are filled up with zeros; none where no number is, several in two sets."""
        return {len(text) for text in self.digits if text.startswith("0") and len(text) > 1}

    @property
    def missing(self) -> _Missing | None:
        """What is missing before the last number; from another than 0 or 1 on they may count something else."""
        return _Missing.of(set(map(int, self.digits)), range(self.first, self.last + 1)) if self.first <= 1 else None


def _sequences(names: Iterable[str]) -> Iterator[_Sequence]:
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = _SEQUENCE.fullmatch(name)
        if match and Numbered.of(name.rpartition("/")[2]) is None and not _DATE.search(match[1]):
            found.setdefault(match[1], {})[match[2]] = name
    return itertools.starmap(_Sequence, found.items())


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds that is not what its name says, and what helps; `program` unpacks what is compressed."""

    name: str
    hint: str = ""
    program: str = ""


_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error", b'{"error')
_CONTENTS: Final = {  # by what it begins with
    b"\x1f\x8b": Content("gzip", program="gunzip"),
    b"BZh": Content("bzip2", program="bunzip2"),
    b"\xfd7zXZ\x00": Content("xz", program="unxz"),
    b"\x28\xb5\x2f\xfd": Content("zstd", program="unzstd"),
    b"\x04\x22\x4d\x18": Content("lz4", program="lz4 -d"),
    b"\xff\x06\x00\x00sNaPpY": Content("snappy", program="snzip -d"),
    b"version https://git-lfs": Content("a pointer of git-lfs", "git lfs pull, where it was cloned"),
    b"PK\x03\x04": Content("a zip archive", "unpack it"),
    b"7z\xbc\xaf\x27\x1c": Content("a 7z archive", "unpack it"),
    b"Rar!": Content("a rar archive", "unpack it"),
    b"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f": Content("an ArrayRecord or Riegeli file", "write the set anew as TFRecords"),
}


def content_of(begin: bytes) -> Content | None:
    """Return what a file holds by its first bytes, if that is none of what a source is made of; else None."""
    if begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return Content("a page of a web server", "download it again: is a login or a licence asked for?")
    return next((content for magic, content in _CONTENTS.items() if begin.startswith(magic)), None)
