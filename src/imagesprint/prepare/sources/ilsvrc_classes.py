"""The classes of ImageNet, however they were downloaded: synsets in sorted order, each with its words."""

from collections.abc import Iterable, Mapping

from imagesprint.errors import DataError
from imagesprint.records.manifest import ClassInfo


def to_classes(
    synsets: Iterable[str], words: Mapping[str, str], images: object, word_list: object
) -> tuple[ClassInfo, ...]:
    """Return the classes in the order of their labels.

    Raises DataError if the `synsets` that have a place in `images` are not those that have `words` in `word_list`.
    """
    found = sorted(synsets)
    for missing, has, lacks in (
        (sorted(set(words) - set(found)), word_list, images),
        (sorted(set(found) - set(words)), images, word_list),
    ):
        if missing:
            raise DataError(
                f"synset {missing[0]} is in {has} but not in {lacks}"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                "are both of the same download, and complete? Compare their checksums",
            )
    return tuple(ClassInfo(synset, synset=synset, text=words[synset]) for synset in found)
