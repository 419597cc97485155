"""Finding the TFRecord shards that another program wrote, by their names and by what they begin with.

    DATA/train-00000-of-01024        DATA/validation-00000-of-00128        the Inception script
    DATA/train/train-00000-of-01024  DATA/validation/validation-00000-…    the TPU script, TF Model Garden
    DATA/imagenet2012-train.tfrecord-00000-of-01024, DATA/val-0001.tfrecord, DATA/train/part-3, …

A file belongs to the split whose word is in its name or else in its folder's.
"""

import filecmp
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagesprint.errors import DataError, RecordError, UsageError
from imagesprint.prepare.foreign.classes import LIST_NAMES
from imagesprint.prepare.names import (
    SPLIT_WORDS,
    TEST_WORDS,
    UNFINISHED,
    Content,
    Numbered,
    check_begun,
    content_of,
    is_test,
    split_of,
)
from imagesprint.records.manifest import SPLITS
from imagesprint.records.tfrecord import HEADER_BYTES, is_header, is_tfrecord

# Files that lie beside shards under the shards' names: our own, indexes for DALI and others, checksums.
_OURS = (".npz", ".json", ".jsonl", ".tmp")
_CHECKSUMS = (".md5", ".sha1", ".sha256", ".sha512", ".crc", ".crc32", ".crc32c", ".sum", ".asc", ".sig")
_BESIDE = frozenset((".idx", ".index", *_OURS, *_CHECKSUMS))
_PACKED = r"(?:\.(?:gz|gzip|zz|z|zlib|zst|zstd|bz2|xz|lz4|sz|snappy))"
_PENDING = f"(?:{'|'.join(map(re.escape, UNFINISHED))})"
_TFRECORD = r"\.tf_?rec(?:ord)?s?"
# A name that ends in 00007-of-01024, in .tfrecord or in .tfrecord-7 is one that programs give to shards alone.
_SHARD_NAME = re.compile(
    rf"(?:[0-9]+-of-[0-9]+(?:{_TFRECORD}|\.records?)?|{_TFRECORD}(?:[-_.]?[0-9]+)?){_PACKED}?{_PENDING}?$",
    re.IGNORECASE,
)
_TEST_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(TEST_WORDS)})(?![a-z])", re.IGNORECASE)

_UNPACK_ZLIB = "python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))'"
_BEGIN = 4096  # bytes that tell how a file is compressed


@dataclass(frozen=True)
class ForeignShard:
    """A shard that another program wrote: where it lies, its size in bytes, and its name in a variant's folder."""

    split: str
    path: Path
    num_bytes: int
    name: str


@dataclass(frozen=True)
class FoundShards:
    """The shards of a folder in order, the TFRecords of a test split beside them, and notes for the user."""

    shards: tuple[ForeignShard, ...]
    tests: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether both splits have shards."""
        return {shard.split for shard in self.shards} == set(SPLITS)


def find_shards(folder: Path) -> FoundShards:
    """Return the shards in `folder` and in its folders named after a split.

    Raises UsageError for names that contradict each other, DataError where one of the numbered shards is missing
    between others, RecordError for a shard that does not begin with a sound record, OSError.
    """
    folders = [entry for entry in sorted(folder.iterdir()) if _says_split(entry.name) and entry.is_dir()]
    named = [entry for entry in folders if is_split_word(entry.name)]
    near = _files(folder, [folder, *named])
    far = _files(folder, [entry for entry in folders if entry not in named])
    shards: list[ForeignShard] = []
    strays: list[Path] = []
    unlike: list[Path] = []
    notes: list[str] = []
    for split in SPLITS:
        # my_train/ is looked at only where train/ has nothing: train_logs/ beside it is none of ours.
        found = _select(near[split], strays) or _select(far[split], strays)
        of_split = [_make_shard(split, path) for path in found]
        _check_names(of_split, folder)
        notes += check_begun(split, [str(path) for path in found])
        shards += of_split
        numbered = [path for path in found if Numbered.of(path.name)]
        unlike += [path for path in found if numbered and path not in numbered]
    in_both = _check_copies(shards)
    unused = [path for path in near[None] + far[None] if _SHARD_NAME.search(path.name) and _is_sound(path)]
    tests = tuple(
        path for path in unused if is_test(path.name) or (path.parent != folder and is_test(path.parent.name))
    )
    others = [path for path in unused if path not in tests]
    empty = [shard.path for shard in shards if not shard.num_bytes]
    counted = (
        (strays, "files are no TFRecords and are left out"),
        (tests, "TFRecords are of a test split and are left out"),
        (others, "TFRecords do not say their split and are left out"),
        (unlike, "shards are not numbered as those beside them: see that they are no copies"),
        (empty, "shards are empty"),
        (in_both, "validation shards hold the same bytes as a train shard: accuracy will look better than it is"),
    )
    notes += [f"{len(paths)} {what}, the first of them {paths[0]}" for paths, what in counted if paths]
    return FoundShards(tuple(shards), tests, tuple(notes))


def is_split_word(name: str) -> bool:
    """Return whether `name` is a split's word and nothing more."""
    return any(name.lower() in words for words in SPLIT_WORDS.values())


def link_to_validation(test: Path) -> str:
    """Return the command that gives a TFRecord of a test split a second name, as one of the validation split."""
    if not _TEST_WORD.search(test.name):
        return shlex.join(["ln", "-s", test.parent.name, str(test.parent.parent / "validation")])
    return shlex.join(["ln", "-s", test.name, str(test.with_name(_TEST_WORD.sub("validation", test.name)))])


def _says_split(name: str) -> bool:
    return split_of(name) is not None or is_test(name)


def _files(folder: Path, places: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Return the files in `places` that may be shards, by the split that their names say, or else their folders do."""
    files: dict[str | None, list[Path]] = {**{split: [] for split in SPLITS}, None: []}
    for place in places:
        for path in sorted(place.iterdir(), key=_by_number):
            if (
                path.name.startswith(".")
                or path.suffix.lower() in _BESIDE
                or path.name in LIST_NAMES
                or ".tfevents." in path.name
            ):
                continue
            if path.is_file() or not path.exists():  # a link that leads nowhere may be a shard's
                says = path.name if _says_split(path.name) or place == folder else place.name
                files[split_of(says)].append(path)
    return files


def _by_number(path: Path) -> list[str | int]:
    """Sort key that puts train-2 before train-10: text and numbers take turns."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", path.name))]


def _make_shard(split: str, path: Path) -> ForeignShard:
    name = path.name if split_of(path.name) else f"{split}-{path.name}"
    return ForeignShard(split, path, path.stat().st_size, name)


def _select(paths: Sequence[Path], strays: list[Path]) -> list[Path]:
    """Return those of a split's files that are shards; add the others to `strays`.

    Raises RecordError for one that is named as shards are, in general or beside it, and is none or is compressed.
    """
    for path in paths:
        if _SHARD_NAME.search(path.name) and re.search(f"{_PENDING}$", path.name, re.IGNORECASE):
            raise RecordError(f"shard {path} is a download that has not ended", "end it, or remove that file")
    sound = set(filter(_is_sound, paths))
    forms = set(map(_form, sound))
    selected: list[Path] = []
    for path in paths:
        is_beside = path not in sound and path.with_name(_unpacked(path)) in sound  # of what was unpacked from it
        is_named = bool(_SHARD_NAME.search(path.name)) or _form(path) in forms
        is_shard = path in sound or (not is_beside and _is_empty(path, is_named))
        (selected if is_shard else strays).append(path)
    return selected


def _is_sound(path: Path) -> bool:
    return path.exists() and is_tfrecord(path)


def _form(path: Path) -> tuple[Path, str]:
    """Return what the shards of one set have in common: the folder, and the name but for its numbers."""
    return path.parent, re.sub(r"[0-9]+", "0", path.name)


def _is_empty(path: Path, is_named: bool) -> bool:
    """Return whether a file that is no TFRecord is an empty shard; `is_named`: it is named like a shard.

    Raises RecordError for a shard that is not sound, OSError.
    """
    if not path.exists():
        if is_named and path.is_symlink():
            raise RecordError(
                f"shard {path} is a link to {os.readlink(path)}, which is not there",
                "bring it back, or delete the link",
            )
        return False
    with path.open("rb") as file:
        begin = file.read(_BEGIN)
    content = content_of(begin) or _zlib(begin)
    if content and content.program and (is_named or _has_packed_record(begin)):
        raise RecordError(
            f"shard {path} is compressed by {content.name}: its records cannot be read one by one",
            f"unpack every shard into a folder NEW, this one by {content.program} < {shlex.quote(str(path))} > "
            f"NEW/{shlex.quote(_unpacked(path))}, then index NEW",
        )
    if content and is_named:
        raise RecordError(f"shard {path} is {content.name}, no TFRecord", content.hint)
    if begin and is_named:
        raise RecordError(
            f"shard {path}: the record at byte 0 has a damaged header",
            "copy it anew from where it is sound, or rename it if it is no TFRecord",
        )
    return is_named  # TensorFlow's writers leave shards empty where there are fewer records


def _unpacked(path: Path) -> str:
    """Return the name of a compressed file without what says that it is one."""
    return re.sub(f"{_PACKED}$", "", path.name, flags=re.IGNORECASE)


def _zlib(begin: bytes) -> Content | None:
    """Return that a file which begins so is compressed by zlib, which has no sign of its own; None for what is not."""
    unpacking = zlib.decompressobj()
    try:
        is_zlib = unpacking.decompress(begin) or unpacking.eof
    except zlib.error:
        return None
    return Content("zlib", program=_UNPACK_ZLIB) if is_zlib else None


def _has_packed_record(begin: bytes) -> bool:
    """Return whether what gzip or zlib packed begins with a record: its file is a shard, whatever its name."""
    try:
        return is_header(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(begin, HEADER_BYTES))
    except zlib.error:
        return False


def _check_copies(shards: Sequence[ForeignShard]) -> list[Path]:
    """Return the validation shards with the bytes of a train shard. Raises DataError for two of one split, OSError.

    Only of shards with the same size, more than the beginning is read.
    """
    in_both = []
    sizes = Counter(shard.num_bytes for shard in shards)
    alike: dict[tuple[int, bytes], list[ForeignShard]] = {}
    for copy in shards:
        if not copy.num_bytes or sizes[copy.num_bytes] < 2:
            continue
        with copy.path.open("rb") as file:
            others = alike.setdefault((copy.num_bytes, file.read(_BEGIN)), [])
        for first in (other for other in others if filecmp.cmp(other.path, copy.path, shallow=False)):
            if first.split == copy.split:
                raise DataError(
                    f"{first.path} and {copy.path} hold the same bytes: one of them is a copy",
                    "move one of them into another folder",
                )
            in_both.append(copy.path)
        others.append(copy)
    return in_both


def _check_names(shards: Sequence[ForeignShard], folder: Path) -> None:
    """Raise UsageError if two shards of a split have one name, or lie in two folders named after it."""
    first: dict[str, ForeignShard] = {}
    below = [shard for shard in shards if shard.path.parent != folder]
    for shard in shards:
        other = first.setdefault(shard.name, shard)
        if shard in below and shard.path.parent != below[0].path.parent:
            other = below[0]
        if other is not shard:
            raise UsageError(
                f"{other.path} and {shard.path} are of two sets of shards", "move one of the sets into another folder"
            )
