"""ILSVRC2012_devkit_t12.tar.gz: the words of the classes and the labels of the validation images."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesprint.errors import DataError
from imagesprint.prepare.sources.tars import unpack

_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class Devkit:
    """`words` describe each synset that is a class; `ground_truth` has the synsets of the validation images.

    These are in the order of the images' names.
    """

    words: dict[str, str]
    ground_truth: list[str]

    @classmethod
    def read(cls, path: Path) -> "Devkit":
        """Read the archive. Raises DataError if it is damaged or lacks a file, OSError."""
        wanted = {
            name: (where, data)
            for where, data in unpack(path)
            for name in (_META, _GROUND_TRUTH)
            if where.endswith(f"/{name}")
        }
        for name in (_META, _GROUND_TRUTH):
            if name not in wanted:
                raise DataError(f"{path} holds no {name}", "download it again and compare its checksum")
        classes = _read_meta(*wanted[_META])
        return cls(dict(classes.values()), _read_ground_truth(*wanted[_GROUND_TRUTH], classes))


def _read_meta(where: str, data: bytes) -> dict[int, tuple[str, str]]:
    """Return synset and words of the classes, by their ILSVRC2012_ID."""
    from scipy.io import loadmat  # slow to import

    try:
        synsets: Any = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        return {
            int(entry["ILSVRC2012_ID"]): (str(entry["WNID"]), str(entry["words"]))
            for entry in synsets
            if int(entry["num_children"]) == 0  # the others are above the classes in WordNet's tree
        }
    except Exception as error:  # of many kinds: scipy parses binary data here
        raise DataError(
            f"{where} cannot be understood: {error!r}", "download the development kit again and compare its checksum"
        ) from error


def _read_ground_truth(where: str, data: bytes, classes: dict[int, tuple[str, str]]) -> list[str]:
    synsets = []
    for number, line in enumerate(data.decode("utf-8", "replace").split(), 1):
        if not line.isdecimal() or int(line) not in classes:
            raise DataError(
                f"line {number} of {where} is {line!r}, which is the id of no class in meta.mat",
                "download the development kit again and compare its checksum",
            )
        synsets.append(classes[int(line)][0])
    return synsets
