"""Where images come from: one module a form in which they are downloaded, and which of them lies at a path."""

import shlex
from pathlib import Path

from imagesprint.errors import UsageError
from imagesprint.images.finding import is_image, visible
from imagesprint.prepare import SOURCES
from imagesprint.prepare.sources.class_folders import ClassFolders
from imagesprint.prepare.sources.folders import inner_folder
from imagesprint.prepare.sources.ilsvrc_tars import IlsvrcTars
from imagesprint.prepare.sources.kaggle_tree import KaggleTree
from imagesprint.prepare.sources.parquet import ParquetTables
from imagesprint.prepare.sources.source import Source
from imagesprint.prepare.sources.synset_tars import SynsetTars
from imagesprint.prepare.sources.webdataset import WebDataset
from imagesprint.records.dataset import reading

_KINDS = (IlsvrcTars, KaggleTree, WebDataset, ParquetTables, SynsetTars, ClassFolders)  # the first that fits is taken


_ARCHIVES = (".zip", ".7z", ".rar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_source(path: Path, kind: str | None = None) -> Source:
    """Return the source at `path`: of that `kind` (one of `defaults.SOURCES`), or the first that fits what is there.

    Where `path` is one folder too many around a source, it is the source in it; its own `path` says so. Raises
    UsageError if there is none, or none of that kind; DataError if it cannot be looked at.
    """
    candidates = [entry for entry in _KINDS if kind in (None, entry.kind)]
    if not candidates:
        raise UsageError(f"there is no kind of source {kind!r}", f"the kinds are {', '.join(SOURCES)}")
    hint = "a source is one of: " + "; ".join(entry.form for entry in candidates)
    with reading(path):
        if not path.exists():
            raise UsageError(f"there is no source folder {path}", hint)
        if not path.is_dir():
            if path.name.lower().endswith(_ARCHIVES):
                hint = "unpack it, and give the folder"
            elif path.name.lower().endswith((".tar", ".parquet")):
                hint = f"give the folder it lies in: {path.resolve().parent}"
            raise UsageError(f"the source {path} is no folder", hint)
        places = [path]
        while (inner := inner_folder(places[-1])) is not None and not inner.samefile(path):
            places.append(inner)
        for entry in candidates:
            for place in places:
                if entry.fits(place):
                    return entry(place)
        raise _nothing_there(path, kind, hint)


def _nothing_there(path: Path, kind: str | None, hint: str) -> UsageError:
    files = visible(path)[1]
    packed = [name for name in files if name.lower().endswith(_ARCHIVES)]
    images = [name for name in files if is_image(name)]
    if packed and kind is None:
        command = "unzip {0} -d {1}" if packed[0].lower().endswith(".zip") else "tar -xf {0} -C {1}"
        quoted = command.format(shlex.quote(str(path / packed[0])), shlex.quote(str(path)))
        return UsageError(f"{path} holds {packed[0]}, which is not unpacked", f"unpack it first: {quoted}")
    if images and kind is None:
        return UsageError(
            f"{path} holds {len(images):,} images, but no class folders",
            f"if it is one class of several, give {path.resolve().parent}; if not, sort them into one folder a class",
        )
    return UsageError(f"{path} does not look like a source" + (f" of the kind {kind}" if kind else ""), hint)
