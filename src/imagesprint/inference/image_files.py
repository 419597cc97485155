"""Which image files a command line means: files, folders, patterns, names on standard input, or the samples."""

import glob
import io
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.images.finding import SUFFIXES, Tally, Walk, is_image

STDIN: Final = "-"


def find_images(words: Sequence[str], names: Iterable[str], console: Console) -> list[Path]:
    """Return the files that `words` stand for, in their order; what a folder or a pattern finds is sorted.

    A word is a file, which need not exist or be an image; a folder, for all images below it (see `images.finding`); a
    pattern with *, ? or [ (** for any folders); or "-", for the files and folders of `names`. What a folder has
    beside images is noted. Raises UsageError for a folder or a pattern without images, and where there are no names.
    A pipe is read where it is named, but not where a folder or a pattern finds it: that could wait for ever.
    """
    if "" in words:  # Python would take it for the current folder
        raise UsageError("an image's name is empty", "see that the shell's variable for it is set")
    if words.count(STDIN) > 1:
        raise UsageError(f"{STDIN} is given twice, but there is one standard input", f"leave one {STDIN} out")
    found: list[Path] = []
    for word in words:
        if word == STDIN:
            listed = [path for name in names if name for path in _expand(Path(name), console)]
            if not listed:
                raise UsageError("standard input names no images", "pipe one path a line into it: find . -name '*.jpg'")
            found += listed
        elif not os.path.lexists(word) and glob.has_magic(word):
            found += _matches(word, console)
        else:
            found += _expand(Path(word), console)
    return found


def _matches(pattern: str, console: Console) -> list[Path]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise UsageError(f"nothing matches {pattern}", "see that the folder is right; quote the pattern")
    files = [match for match in matches if not os.path.isdir(match) and not _may_wait(match)]
    # Of a pattern that finds files, folders are by-catch; one that finds folders alone means what is in them.
    return (
        [Path(file) for file in files]
        if files
        else [file for match in matches for file in _expand(Path(match), console)]
    )


def _expand(path: Path, console: Console) -> list[Path]:
    """The file itself, or the images below a folder."""
    if not os.path.isdir(path):  # unlike Path's, it takes a name that is too long for one that is not there
        return [path]
    found: list[Path] = []
    others = Tally()
    try:
        for entry in Walk([path]).files(path):
            if is_image(entry.name) and not _may_wait(entry.path):
                found.append(Path(entry.path))
            else:
                others.add(entry.path)
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename}: {error.strerror}", "make it readable, or name its files"
        ) from error
    if found:
        for note in others.note(f"files of {path} that are no images by name or kind are left out"):
            console.line(note)
    if not found:
        raise UsageError(f"there are no images in {path}", f"their names must end in {', '.join(sorted(SUFFIXES))}")
    return found


def _may_wait(path: str) -> bool:
    """Whether this is a pipe, a device or the like, which may give its bytes later or never."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # reading it will say why
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def sample_images() -> list[bytes]:
    """Two JPEG files of 640 × 427 pixels, to try a model on: noise that falls with its frequency, as in photos.

    They have 175 kB and take 1.3 ms to decode; scikit-learn's two photos of that size 143 and 197 kB, 1.2 and 1.8 ms
    (the native decoder, a crop of 387 × 427 pixels to 224, one core of an EPYC).
    """
    height, width = 427, 640
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).clip(1 / width)
    files = []
    for seed in range(2):
        noise = np.random.default_rng(seed).standard_normal((4, height, width))
        grey, *colours = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
        pixels = 120 + 55 * np.stack([grey + 0.25 * colour for colour in colours], axis=-1) / grey.std()
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files
