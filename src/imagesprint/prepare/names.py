"""What the names of a source's files and folders say: the split, and a shard's number among how many.

One table of split words and one check of numbering serve every kind of source, so that `valid/`, `valid-00000.parquet`
and `imagenet-valid-0000.tar` mean the same, and a shard that is missing is an error wherever it is missing.
"""

import itertools
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagesprint.errors import DataError

SPLIT_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
}
# Never a validation split by themselves: who tunes by the test images has none left to test with.
TEST_WORDS: Final = ("test", "testing", "eval", "evaluation")

_WORD = re.compile(r"[a-z]+")
_SEQUENCE = re.compile(r"(.*[^0-9])([0-9]+)(?:\.[A-Za-z_]+)?")
_SHOWN = 5  # missing numbers
_NUMBERED = re.compile(r"(?<![0-9])([0-9]+)-of-([0-9]+)(?![0-9])")


def split_of(name: str) -> str | None:
    """Return "train" or "validation" where the words of `name`, in any case, say one of them; None for none or both."""
    words = set(_WORD.findall(name.lower()))
    said = [split for split, meant in SPLIT_WORDS.items() if words.intersection(meant)]
    return said[0] if len(said) == 1 else None


def is_test(name: str) -> bool:
    """Return whether the words of `name` say that it holds a test split."""
    return bool(set(_WORD.findall(name.lower())).intersection(TEST_WORDS))


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
        return match and cls(name[: match.start()], int(match[1]), int(match[2]))


def check_whole(split: str, names: Iterable[str]) -> None:
    """Raise DataError if the numbered shards of a split are of two sets, or if one of them is missing.

    `names` are those of its files, with or without folders; those that are not numbered are passed over.
    """
    numbered = _numbered(names)
    _check_one_set(split, numbered)
    missing = _missing(numbered)
    if missing:
        raise _missing_error(split, numbered, missing)


def check_begun(split: str, names: Iterable[str]) -> tuple[str, ...]:
    """As `check_whole`, but return a note instead where only shards behind the last one that is there are missing.

    For shards that are read where they lie: the first few of many are a common trial; a hole is an accident.
    """
    names = list(names)
    numbered = _numbered(names)
    _check_one_set(split, numbered)
    missing = _missing(numbered)
    if missing and missing.first[0] < max(entry.number for _, entry in numbered):
        raise _missing_error(split, numbered, missing)
    begun = (f"{_said(split, numbered, missing)}: what is there is all that is used",) if missing else ()
    return (*begun, *_gaps(split, (name for name in names if Numbered.of(name.rpartition("/")[2]) is None)))


def _numbered(names: Iterable[str]) -> list[tuple[str, Numbered]]:
    found = ((name, Numbered.of(name.rpartition("/")[2])) for name in names)
    return [(name, entry) for name, entry in found if entry is not None]


def _check_one_set(split: str, numbered: Sequence[tuple[str, Numbered]]) -> None:
    """Raise DataError unless the shards differ in their numbers, beside their folders and what follows the number.

    What follows may be a hash of each shard's own; what stands before is the set's name.
    """
    first: dict[int, str] = {}
    for name, entry in numbered:
        counted, of = numbered[0]
        is_alike = (entry.stem, entry.total) == (of.stem, of.total)
        other = first.setdefault(entry.number, name) if is_alike else counted
        if other != name:
            raise DataError(
                f"{other} and {name} are of two sets of {split} shards", "move one of the sets into another folder"
            )
    for number, name in first.items():
        if number not in _range(first.keys(), numbered[0][1].total):
            raise DataError(
                f"{name} has a number beyond those of {numbered[0][1].total:,} {split} shards",
                "move what is of another set into another folder",
            )


def _gaps(split: str, names: Iterable[str]) -> Iterator[str]:
    """Yield a note for each gap in numbers without a total, such as part-0001: those may be something else, too."""
    sequences: dict[str, set[int]] = {}
    for name in names:
        match = _SEQUENCE.fullmatch(name)
        if match:
            sequences.setdefault(match[1], set()).add(int(match[2]))
    for stem, numbers in sequences.items():
        count = max(numbers) - min(numbers) + 1 - len(numbers)
        if count and min(numbers) <= 1:
            first = next(number for number in itertools.count(min(numbers)) if number not in numbers)
            last = max(numbers)
            yield f"{split} shards {stem}… go up to number {last}, but {count:,} are missing, the first is {first}"


def _range(numbers: Container[int], total: int) -> range:
    """Return the numbers that a set of `total` shards has; some programs count 1-of-3, 2-of-3, 3-of-3."""
    first = 1 if 0 not in numbers and total in numbers else 0
    return range(first, first + total)


@dataclass(frozen=True, slots=True)
class _Missing:
    """How many numbers of a set are missing, and the first of them: a name may say that there are billions."""

    count: int
    first: tuple[int, ...]


def _missing(numbered: Sequence[tuple[str, Numbered]]) -> _Missing | None:
    if not numbered:
        return None
    there, total = {entry.number for _, entry in numbered}, numbered[0][1].total
    absent = (number for number in _range(there, total) if number not in there)
    return _Missing(total - len(there), tuple(itertools.islice(absent, _SHOWN))) if len(there) < total else None


def _said(split: str, numbered: Sequence[tuple[str, Numbered]], missing: _Missing) -> str:
    shown = ", ".join(map(str, missing.first)) + (", …" if missing.count > _SHOWN else "")
    plural, verb = ("s", "are") if missing.count > 1 else ("", "is")
    return f"of {numbered[0][1].total:,} {split} shards {missing.count:,} {verb} missing: number{plural} {shown}"


def _missing_error(split: str, numbered: Sequence[tuple[str, Numbered]], missing: _Missing) -> DataError:
    name = numbered[0][0]
    return DataError(
        f"{_said(split, numbered, missing)} (beside {name})", "download them again, or what they came with"
    )
