"""Finding out what kind of source lies at a path."""

from pathlib import Path

from imagesprint.errors import UsageError
from imagesprint.prepare.class_folders import ClassFolders
from imagesprint.prepare.sources import Source
from imagesprint.records.dataset import reading

_HINT = "give a folder with SOURCE/train/CLASS/*.jpg and SOURCE/val/CLASS/*.jpg, or SOURCE/CLASS/*.jpg"


def open_source(path: Path) -> Source:
    """Return the source at `path`, chosen by what is there. Raises UsageError if there is none, DataError."""
    with reading(path):
        if not path.exists():
            raise UsageError(f"there is no source folder {path}", _HINT)
        if not path.is_dir():
            raise UsageError(f"the source {path} is no folder", _HINT)
    return ClassFolders(path)
