"""The classes of shards that another program wrote, from what their records say."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from imagesprint.errors import DataError
from imagesprint.prepare.foreign.scan import Labels
from imagesprint.records.manifest import ClassInfo


class ForeignClasses:
    """What the records say of each label, gathered from the shards of a set in any order."""

    def __init__(self) -> None:
        # By label and synset: the first shard and record, the shard's path, the record's text.
        self._first: dict[int, dict[str, tuple[int, int, Path, str]]] = {}

    def add(self, number: int, path: Path, labels: Labels) -> None:
        """Add what the records of shard `number` say."""
        for label, synsets in labels.items():
            first = self._first.setdefault(label, {})
            for synset, (record, text) in synsets.items():
                mention = (number, record, path, text)
                first[synset] = min(first.get(synset, mention), mention)

    @property
    def first_label(self) -> int:
        """What class 0 is called in the records: 0 if that label is seen anywhere, else 1."""
        return 0 if 0 in self._first else 1

    def classes(self) -> tuple[ClassInfo, ...]:
        """Return the classes from the first label to the greatest, named by synset, else text, else label.

        Raises DataError where a label stands for two synsets, or a synset has two labels.
        """
        found = [self._synset_and_text(label) for label in range(self.first_label, max(self._first, default=0) + 1)]
        self._check_synsets([synset for synset, _ in found])
        times = Counter(text for synset, text in found if not synset)
        return tuple(
            _make_class(label, synset, text, is_unique=times[text] == 1)
            for label, (synset, text) in enumerate(found, self.first_label)
        )

    def _synset_and_text(self, label: int) -> tuple[str, str]:
        mentions = self._first.get(label, {})
        synsets = sorted(filter(None, mentions), key=mentions.__getitem__)
        if len(synsets) > 1:
            places = [f"{synset} in {_place(mentions[synset])}" for synset in synsets[:2]]
            raise _contradiction(f"label {label} stands for {' and for '.join(places)}")
        texts = [text for *_, text in sorted(mentions.values()) if text]
        return "".join(synsets), next(iter(texts), "")

    def _check_synsets(self, synsets: Sequence[str]) -> None:
        labels: dict[str, int] = {}
        for label, synset in enumerate(synsets, self.first_label):
            other = labels.setdefault(synset, label)
            if synset and other != label:
                places = [f"{number} in {_place(self._first[number][synset])}" for number in (other, label)]
                raise _contradiction(f"synset {synset} has label {' and label '.join(places)}")


def _place(mention: tuple[int, int, Path, str]) -> str:
    return f"{mention[2]}, record {mention[1]}"


def _contradiction(what: str) -> DataError:
    return DataError(what, "the shards are of two sets, or were written with two lists of classes: index them apart")


def _make_class(label: int, synset: str, text: str, is_unique: bool) -> ClassInfo:
    """Texts alone need not tell classes apart (ImageNet has two kinds of crane): then the label does."""
    name = synset or (text if is_unique else text and f"{text} ({label})") or f"class {label}"
    return ClassInfo(name, synset, text or name)
