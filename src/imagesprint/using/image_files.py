"""Which image files a command line means: files, folders, patterns, and lines of standard input."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.images.finding import SUFFIXES, Walk, is_image

STDIN: Final = "-"


def find_images(words: Sequence[str], lines: Iterable[str]) -> list[Path]:
    """Return the files that `words` stand for, in their order; what a folder or a pattern finds is sorted.

    A word is a file, which need not exist or be an image; a folder, for all images below it (see `images.finding`); a
    pattern with *, ? or [ (** for any folders); or "-", for the files and folders that `lines` name, one each. Raises
    UsageError for a folder or a pattern without images, and where there are no lines.
    """
    found: list[Path] = []
    for word in words:
        if word == STDIN:
            listed = [path for line in lines if line for path in _expand(Path(line))]
            if not listed:
                raise UsageError("standard input names no images", "pipe one path a line into it: find . -name '*.jpg'")
            found += listed
        elif not os.path.lexists(word) and glob.has_magic(word):
            found += _matches(word)
        else:
            found += _expand(Path(word))
    return found


def _matches(pattern: str) -> list[Path]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise UsageError(f"nothing matches {pattern}", "see that the folder is right; quote the pattern")
    files = [match for match in matches if not os.path.isdir(match)]
    # Of a pattern that finds files, folders are by-catch; one that finds folders alone means what is in them.
    return [Path(file) for file in files] if files else [file for match in matches for file in _expand(Path(match))]


def _expand(path: Path) -> list[Path]:
    """The file itself, or the images below a folder."""
    if not path.is_dir():
        return [path]
    try:
        found = [Path(entry.path) for entry in Walk([path]).files(path) if is_image(entry.name)]
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename}: {error.strerror}", "make it readable, or name its files"
        ) from error
    if not found:
        raise UsageError(f"there are no images in {path}", f"their names must end in {', '.join(sorted(SUFFIXES))}")
    return found
