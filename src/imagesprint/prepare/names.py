"""What the names of a source's files and folders say: the split, and a shard's number among how many.

One table of split words and one check of numbering serve every kind of source, so that `valid/`, `valid-00000.parquet`
and `imagenet-valid-0000.tar` mean the same, and a shard that is missing is an error wherever it is missing.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
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
    numbered = _numbered(names)
    _check_one_set(split, numbered)
    missing = _missing(numbered)
    if missing and missing[0] < max(entry.number for _, entry in numbered):
        raise _missing_error(split, numbered, missing)
    return (f"{_said(split, numbered, missing)}: what is there is all that is used",) if missing else ()


def _numbered(names: Iterable[str]) -> list[tuple[str, Numbered]]:
    found = ((name, Numbered.of(name.rpartition("/")[2])) for name in names)
    return [(name, entry) for name, entry in found if entry is not None]


def _check_one_set(split: str, numbered: Sequence[tuple[str, Numbered]]) -> None:
    first: dict[int, str] = {}
    for name, entry in numbered:
        counted, of = numbered[0]
        other = first.setdefault(entry.number, name) if entry.total == of.total else counted
        if other != name:
            raise DataError(
                f"{other} and {name} are of two sets of {split} shards", "move one of the sets into another folder"
            )


def _missing(numbered: Sequence[tuple[str, Numbered]]) -> list[int]:
    if not numbered:
        return []
    there, total = {entry.number for _, entry in numbered}, numbered[0][1].total
    first = 1 if 0 not in there and total in there else 0  # some programs count 1-of-3, 2-of-3, 3-of-3
    return [number for number in range(first, first + total) if number not in there]


def _said(split: str, numbered: Sequence[tuple[str, Numbered]], missing: Sequence[int]) -> str:
    shown = ", ".join(map(str, itertools.islice(missing, 5))) + (", …" if len(missing) > 5 else "")
    plural, verb = ("s", "are") if len(missing) > 1 else ("", "is")
    return f"of {numbered[0][1].total:,} {split} shards {len(missing):,} {verb} missing: number{plural} {shown}"


def _missing_error(split: str, numbered: Sequence[tuple[str, Numbered]], missing: Sequence[int]) -> DataError:
    name = numbered[0][0]
    return DataError(
        f"{_said(split, numbered, missing)} (beside {name})", "download them again, or what they came with"
    )
