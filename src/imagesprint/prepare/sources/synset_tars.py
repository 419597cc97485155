"""One tar of images a class, as ImageNet-21k is downloaded: SOURCE/n00004475.tar, …, or in SOURCE/train and SOURCE/val.

Classes are numbered in the sorted order of the tars' names.
"""

from pathlib import Path

from imagesprint.errors import DataError
from imagesprint.prepare.sources.folders import reading_source, visible_folders
from imagesprint.prepare.sources.source import Listing, Sample, check_every_class
from imagesprint.prepare.sources.tars import Tars
from imagesprint.records.manifest import ClassInfo


class SynsetTars:
    """The tars in the folder `path`."""

    kind: str = "synset-tars"
    form: str = "one tar a class: n00004475.tar, … (or in train/ and val/)"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tars = Tars(path)

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether there are more tars than folders, which would be those of classes."""
        folder = path / _train_folder(path)
        return len(_synsets(folder)) > len(visible_folders(folder))

    def scan(self) -> Listing:
        """Return all samples; without "validation" where there are no tars in a folder val.

        Raises DataError for a damaged one or a class without train images.
        """
        with reading_source():
            return self._scan()

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample. Raises DataError if its tar cannot be read or has changed."""
        return self._tars.read(sample)

    def _scan(self) -> Listing:
        folder = _train_folder(self.path)
        classes = _synsets(self.path / folder)
        labels = {name: label for label, name in enumerate(classes)}
        validation = _synsets(self.path / "val") if folder else []
        unknown = sorted(set(validation) - set(labels))
        if unknown:
            raise DataError(
                f"{unknown[0]}.tar is in {self.path / 'val'} but not in {self.path / 'train'}",
                "add it there, or remove it",
            )
        splits = {"train": self._samples(folder, labels)}
        check_every_class(classes, splits["train"], self.path / folder)
        if validation:
            splits["validation"] = self._samples("val/", {name: labels[name] for name in validation})
        return Listing(tuple(ClassInfo(name, synset=name, text=name) for name in classes), splits)

    def _samples(self, folder: str, labels: dict[str, int]) -> list[Sample]:
        """Return the images in the tars in `folder` ("", or with a slash at its end) of the classes in `labels`."""
        return [
            Sample(f"{folder}{name}.tar/{member.path}", label, member.num_bytes, member.offset)
            for name, label in labels.items()
            for member in self._tars.members(f"{folder}{name}.tar")
        ]


def _train_folder(path: Path) -> str:
    return "train/" if (path / "train").is_dir() else ""


def _synsets(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("[!.]*.tar"))
