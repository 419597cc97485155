"""Where images come from: one module a form in which they are downloaded, and which of them lies at a path."""

import shlex
from pathlib import Path
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.images.finding import is_image, visible
from imagesprint.prepare import SOURCES
from imagesprint.prepare.sources.class_folders import ClassFolders
from imagesprint.prepare.sources.folders import inner_folder
from imagesprint.prepare.sources.ilsvrc import IlsvrcTars
from imagesprint.prepare.sources.kaggle_tree import KaggleTree
from imagesprint.prepare.sources.parquet import ParquetTables
from imagesprint.prepare.sources.source import Source
from imagesprint.prepare.sources.synset_tars import COMPRESSED, SynsetTars
from imagesprint.prepare.sources.tars import first_paths
from imagesprint.prepare.sources.webdataset import WebDataset, are_samples
from imagesprint.records.dataset import reading

# The first that fits is taken.
SOURCE_KINDS: Final[tuple[type[Source], ...]] = (
    IlsvrcTars,
    KaggleTree,
    WebDataset,
    ParquetTables,
    SynsetTars,
    ClassFolders,
)
_UNPACKING: Final = {  # the archives of whole sources: how FILE is unpacked into FOLDER
    ".zip": "unzip {0} -d {1}",
    ".7z": "7z x {0} -o{1}",
    ".rar": "unrar x {0} {1}/",
    **dict.fromkeys((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"), "tar -xf {0} -C {1}"),
}


def open_source(path: Path, kind: str | None = None) -> Source:
    """Return the source at `path`: of that `kind` (one of `prepare.SOURCES`), or the first that fits what is there.

    Where `path` is one folder too many around a source, it is the source in it; its own `path` says so. Raises
    UsageError if there is none, or none of that kind; DataError if it cannot be looked at.
    """
    candidates = [entry for entry in SOURCE_KINDS if kind in (None, entry.kind)]
    if not candidates:
        raise UsageError(f"there is no kind of source {kind!r}", f"the kinds are {', '.join(SOURCES)}")
    hint = "a source is one of: " + "; ".join(entry.form for entry in candidates)
    with reading(path):
        if not path.exists():
            raise UsageError(f"there is no source folder {path}", hint)
        if not path.is_dir():
            if path.name.lower().endswith(tuple(_UNPACKING)):
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
    packed = [name for name in files if name.lower().endswith(tuple(_UNPACKING))]
    images = [name for name in files if is_image(name)]
    if packed and kind is None:
        return UsageError(f"{path} holds {packed[0]}, which is not unpacked", _unpacking(path / packed[0]))
    if images and kind is None:
        return UsageError(
            f"{path} holds {len(images):,} images, but no class folders",
            f"if it is one class of several, give {path.resolve().parent}; if not, sort them into one folder a class",
        )
    return UsageError(f"{path} does not look like a source" + (f" of the kind {kind}" if kind else ""), hint)


def _unpacking(archive: Path) -> str:
    """Return the hint how to unpack an archive; a tar that is a shard, or of one class, is a source as it is."""
    name, quoted = archive.name.lower(), shlex.quote(str(archive))
    inside = first_paths(archive, "r:*") if name.endswith(tuple(COMPRESSED)) else []
    if inside and (are_samples(inside) or not any("/" in path.removeprefix("./") for path in inside)):
        program = next(program for suffix, (_, program) in COMPRESSED.items() if name.endswith(suffix))
        return f"undo its compression, but leave the tar: {program} {quoted}"
    command = next(command for suffix, command in _UNPACKING.items() if name.endswith(suffix))
    return f"unpack it first: {command.format(quoted, shlex.quote(str(archive.parent)))}"
