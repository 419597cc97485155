"""Finding out what kind of source lies at a path."""

from pathlib import Path

from imagesprint.errors import UsageError
from imagesprint.prepare.defaults import SOURCES
from imagesprint.prepare.sources.class_folders import ClassFolders
from imagesprint.prepare.sources.ilsvrc_tars import IlsvrcTars
from imagesprint.prepare.sources.kaggle_tree import KaggleTree
from imagesprint.prepare.sources.parquet_tables import ParquetTables
from imagesprint.prepare.sources.source import Source
from imagesprint.prepare.sources.synset_tars import SynsetTars
from imagesprint.records.dataset import reading

_KINDS = (IlsvrcTars, KaggleTree, ParquetTables, SynsetTars, ClassFolders)  # in this order: the first that fits


def open_source(path: Path, kind: str | None = None) -> Source:
    """Return the source at `path`: of that `kind` (one of `defaults.SOURCES`), or the first that fits what is there.

    Raises UsageError if there is none, or none of that kind; DataError if it cannot be looked at.
    """
    candidates = [entry for entry in _KINDS if kind in (None, entry.kind)]
    if not candidates:
        raise UsageError(f"there is no kind of source {kind!r}", f"the kinds are {', '.join(SOURCES)}")
    hint = "a source is one of: " + "; ".join(entry.form for entry in candidates)
    with reading(path):
        if not path.exists():
            raise UsageError(f"there is no source folder {path}", hint)
        if not path.is_dir():
            raise UsageError(f"the source {path} is no folder", hint)
        for entry in candidates:
            if entry.fits(path):
                return entry(path)
    raise UsageError(f"{path} does not look like a source" + (f" of the kind {kind}" if kind else ""), hint)
