"""The classes of shards that another program wrote: from what their records say, else from a list beside the shards."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from imagesprint.errors import DataError
from imagesprint.records.manifest import ClassInfo

# What the records of a shard say of each label: by synset, the first record's number and text.
Labels = dict[int, dict[str, tuple[int, str]]]

# tensorflow_datasets writes the first, the scripts of TF-Slim and many others the second.
_OF_TFDS = "label.labels.txt"
LIST_NAMES = (_OF_TFDS, "labels.txt")
_NUMBERED = re.compile(r"([0-9]{1,6})(?::|\s)\s*(\S.*)")  # 0:daisy
_SYNSET = re.compile(r"(n[0-9]{8})[\s:,]*(.*)")
_NO_CLASS = ("background", "unused background", "unused", "dummy")  # what label 0 stands for where classes begin at 1


@dataclass(frozen=True)
class NameList:
    """A file with the names of the classes: `names` by number, or what is wrong with it as a list.

    Where `is_numbered` is False the numbers are those of the lines, from 0: labels may then count from 0 or 1.
    """

    path: Path
    names: Mapping[int, str]
    is_numbered: bool = False
    problem: str = ""

    @classmethod
    def find(cls, folders: Sequence[Path]) -> "NameList | None":
        """Return the first list in `folders`, None if there is none. Raises OSError."""
        for path in (folder / name for folder in folders for name in LIST_NAMES):
            if path.is_file():
                return cls._read(path)
        return None

    @classmethod
    def _read(cls, path: Path) -> "NameList":
        """Read a list: a name a line, or a number and a name, as in 0:daisy."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            return cls(path, {}, problem="it is no text in UTF-8")
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        matches = [_NUMBERED.fullmatch(line) for line in lines]
        if path.name == _OF_TFDS or not all(matches):
            return cls(path, dict(enumerate(lines)), is_numbered=path.name == _OF_TFDS)
        numbered = {int(match[1]): match[2] for match in matches if match}
        problem = "it has a number twice" if len(numbered) < len(lines) else ""
        return cls(path, numbered, is_numbered=True, problem=problem)

    def of_labels(self, labels: Set[int]) -> Mapping[int, str]:
        """Return the names by label, for records with `labels`; empty if they do not fit them beyond doubt."""
        names = dict(self.names)
        if self.path.name != _OF_TFDS and len(names) > 2 * len(labels):
            return {}  # more likely a list of something else, such as the images
        if 0 not in labels and names.get(0, "").lower() in _NO_CLASS:
            del names[0]
        elif 0 not in labels and not self.is_numbered:
            # Only that the list would be too short otherwise says that its first line is label 1.
            names = {number + 1: name for number, name in names.items()} if len(names) == max(labels) else {}
        return names if labels <= names.keys() else {}


class ForeignClasses:
    """What the records say of each label, gathered from the shards of a set in any order, and a list beside them."""

    def __init__(self, listed: NameList | None = None) -> None:
        self._listed = listed
        # By label and synset: the first shard and record, the shard's path, the record's text.
        self._first: dict[int, dict[str, tuple[int, int, Path, str]]] = {}

    def add(self, number: int, path: Path, labels: Labels) -> None:
        """Add what the records of shard `number` say."""
        for label, synsets in labels.items():
            first = self._first.setdefault(label, {})
            for synset, (record, text) in synsets.items():
                mention = (number, record, path, text)
                first[synset] = min(first.get(synset, mention), mention)

    def settle(self) -> "SettledClasses":
        """Return the classes from the first label to the greatest, named by synset, else text, else label.

        What the records say counts, then the list. Raises DataError where a label stands for two synsets, or a synset
        has two labels.
        """
        said = {label: self._synset_and_text(label) for label in sorted(self._first)}
        self._check_synsets(said)
        listed, notes = self._fit_list(said)
        labels = said.keys() | listed.keys()
        first_label = 0 if 0 in labels else 1
        found = []
        for label in range(first_label, max(labels, default=0) + 1):
            synset, text = said.get(label, ("", ""))
            listed_synset, listed_text = listed.get(label, ("", ""))
            found.append((synset or listed_synset, text or listed_text))
        times = Counter(synset or text for synset, text in found)
        classes = tuple(
            _make_class(label, synset, text, is_unique=times[synset or text] == 1)
            for label, (synset, text) in enumerate(found, first_label)
        )
        return SettledClasses(first_label, classes, notes)

    def _synset_and_text(self, label: int) -> tuple[str, str]:
        mentions = self._first[label]
        synsets = sorted(filter(None, mentions), key=mentions.__getitem__)
        if len(synsets) > 1:
            places = [f"{synset} in {_place(mentions[synset])}" for synset in synsets[:2]]
            raise _contradiction(f"label {label} stands for {' and for '.join(places)}")
        texts = [text for *_, text in sorted(mentions.values()) if text]
        return "".join(synsets), next(iter(texts), "")

    def _check_synsets(self, said: Mapping[int, tuple[str, str]]) -> None:
        labels: dict[str, int] = {}
        for label, (synset, _) in said.items():
            other = labels.setdefault(synset, label)
            if synset and other != label:
                places = [f"{number} in {_place(self._first[number][synset])}" for number in (other, label)]
                raise _contradiction(f"synset {synset} has label {' and label '.join(places)}")

    def _fit_list(self, said: Mapping[int, tuple[str, str]]) -> tuple[dict[int, tuple[str, str]], tuple[str, ...]]:
        """Return synset and text by label as the list has them, and notes; none where it does not fit the records."""
        if self._listed is None or not said:
            return {}, ()
        names = self._listed.of_labels(said.keys())
        problem = self._listed.problem
        if not names and not problem:
            range_ = f"labels {min(said)} to {max(said)}"
            advice = "" if self._listed.is_numbered else "; write the label before each name, as in 0:daisy"
            problem = f"its {len(self._listed.names)} names do not fit {range_} for certain{advice}"
        listed = {label: _split_name(name) for label, name in names.items()}
        for label, record in said.items():
            if not problem and _contradict(record, listed[label]):
                texts = " ".join(filter(None, record))
                problem = f"it calls label {label} {names[label]!r}, the records call it {texts!r}"
        if problem:
            return {}, (f"{self._listed.path} is not used: {problem}",)
        return listed, ()


@dataclass(frozen=True)
class SettledClasses:
    """The classes in the order of their labels, what class 0 is called in the records (0 or 1), and notes."""

    first_label: int
    classes: tuple[ClassInfo, ...]
    notes: tuple[str, ...]


def _place(mention: tuple[int, int, Path, str]) -> str:
    return f"{mention[2]}, record {mention[1]}"


def _contradiction(what: str) -> DataError:
    return DataError(what, "the shards are of two sets, or were written with two lists of classes: index them apart")


def _split_name(name: str) -> tuple[str, str]:
    """Return synset and text of a listed name: n01440764, n01440764 tench, or tench."""
    match = _SYNSET.fullmatch(name)
    return (match[1], match[2]) if match else ("", name)


def _contradict(record: tuple[str, str], listed: tuple[str, str]) -> bool:
    """Return whether a record and the list, synset and text each, cannot mean one class."""
    if record[0] and listed[0]:
        return record[0] != listed[0]
    # Where one has the synset alone and the other words alone, nothing tells.
    return bool(record[1] and listed[1] and not _words(record[1]) & _words(listed[1]))


def _words(text: str) -> set[str]:
    """Return the names in a text such as "tench, Tinca tinca", written in one way."""
    parts = (" ".join(re.split(r"[\s_-]+", part.strip())).casefold() for part in (text, *text.split(",")))
    return set(filter(None, parts))


def _make_class(label: int, synset: str, text: str, is_unique: bool) -> ClassInfo:
    """A name alone need not tell classes apart (ImageNet has two kinds of crane): then the label does."""
    name = synset or text
    name = (name if is_unique else f"{name} ({label})") if name else f"class {label}"
    return ClassInfo(name, synset, text or name)
