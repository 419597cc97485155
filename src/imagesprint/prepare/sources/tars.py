"""Images in tars that are never unpacked: what lies where in them, and the bytes at a place.

A tar is read to the end of its file. After its end mark there may be zeros, or another tar (`cat a.tar b.tar`), whose
files count too; anything else is an error. So is a tar without an end mark: nothing tells it from one that was cut off
between two files.
"""

import gzip
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from imagesprint.errors import DataError
from imagesprint.images.finding import is_litter
from imagesprint.prepare.names import content_of
from imagesprint.prepare.sources.downloads import other_content
from imagesprint.prepare.sources.source import Box, Source, SourceImage, Stamp

_CHUNK = 1 << 20
# Tars are filled up with zeros to a multiple of some KiB, on tape of up to 1 MiB. A file that was laid out in full
# before its download began has more of them, where that was not finished.
_MOST_ZEROS = 1 << 20
_FIRST = 64  # files that show what a tar holds
_END_MARK = 2 * tarfile.BLOCKSIZE
_NO_END_MARK = "it ends without the end mark, perhaps between two files"


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: its path in it, where its bytes begin in the file that is the tar, and their number."""

    path: str
    offset: int
    num_bytes: int

    @property
    def name(self) -> str:
        """The path's last part."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its extension."""
        return self.name.rpartition(".")[0]

    def image(self, place: str, label: int, boxes: tuple[Box, ...] = ()) -> SourceImage:
        """Return the sample that this file is, in the tar at `place`."""
        return SourceImage(f"{place}/{self.path}", label, self.num_bytes, self.offset, boxes)


class Tars:
    """The tars below `folder`: listed with a stamp each, then read in place. Small to pickle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamps: dict[str, Stamp] = {}
        self._joined: set[str] = set()

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of the tars that were listed."""
        if not self._joined:
            return ()
        more = f" (as are {len(self._joined) - 1} more)" if len(self._joined) > 1 else ""
        return (f"{min(self._joined)} is several tars, one after the other{more}: the files of all are used",)

    def members(self, archive: str) -> list[Member]:
        """Return the files in the tar at the relative path `archive`, without the litter of systems and programs.

        Raises DataError if it is damaged, empty, no tar or holds links or a file twice, OSError if it cannot be read.
        """
        status = (self._folder / archive).stat()
        self._stamps[archive] = Stamp.of(status)
        return self._list(archive, 0, status.st_size, archive)

    def inner_members(self, archive: str, inner: Member) -> list[Member]:
        """Return the files in a tar that is itself a member of `archive`; their offsets are into `archive`.

        Raises what `members` does.
        """
        return self._list(archive, inner.offset, inner.offset + inner.num_bytes, f"{archive}/{inner.path}")

    def contents(self, archive: str, members: Iterable[Member]) -> Iterator[bytes]:
        """Yield the bytes of each of `members`. Raises OSError if `archive` cannot be read."""
        with (self._folder / archive).open("rb", buffering=0) as file:
            for member in members:
                yield os.pread(file.fileno(), member.num_bytes, member.offset)

    def read(self, sample: SourceImage) -> bytes:
        """Return the bytes of a sample located in a listed tar, at ARCHIVE.tar/….

        Raises DataError if the archive cannot be read or is not the one that was listed.
        """
        ends = [match.end() - 1 for match in re.finditer(r"\.tar/", sample.location, re.IGNORECASE)]
        archive = next(sample.location[:end] for end in ends if sample.location[:end] in self._stamps)
        path = self._folder / archive
        try:
            with path.open("rb", buffering=0) as file:
                self._stamps[archive].check(os.fstat(file.fileno()), archive)
                return os.pread(file.fileno(), sample.num_bytes, sample.offset)
        except OSError as error:
            raise DataError(
                f"cannot read {sample.location}: {error.strerror}", f"see to {path}, then give the same command again"
            ) from error

    def _list(self, archive: str, start: int, end: int, place: str) -> list[Member]:
        found: dict[str, Member] = {}
        with (self._folder / archive).open("rb") as file, _damage_named(place):
            extent = _Extent(file, start, end, place)
            extent.check_beginning()
            position: int | None = start
            while position is not None:
                members, end_mark = extent.list_tar(position)
                for member in members:
                    if found.setdefault(member.path, member) is not member:
                        raise DataError(
                            f"{place} holds {member.path} twice",
                            "write the tar anew with one of them; unpacking it would keep the last",
                        )
                position = extent.find_next(end_mark)
                if position is not None:
                    self._joined.add(place)
        return list(found.values())


class TarSource(Source):
    """A source whose images lie in tars below `path`."""

    files: tuple[str, ...] = ("*.tar",)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._tars = Tars(path)

    def read(self, sample: SourceImage) -> bytes:
        return self._tars.read(sample)


@dataclass(frozen=True, slots=True)
class _Extent:
    """Bytes `start` up to `end` of a file: a tar, or several, named `place`."""

    file: io.BufferedReader
    start: int
    end: int
    place: str

    def check_beginning(self) -> None:
        """Raise DataError for an empty tar, and for what is something else by its first bytes."""
        self.file.seek(self.start)
        other = other_content(self.place, self.file.read(min(tarfile.BLOCKSIZE, self.end - self.start)))
        if other is not None:
            raise other
        if self._first_other_than_zero(self.start) is None:
            raise DataError(
                f"{self.place} is an empty tar: all of its {self.end - self.start:,} bytes are zeros",
                "download it again and compare its checksum, or remove it",
            )

    def list_tar(self, position: int) -> tuple[list[Member], int]:
        """Return the files of the tar that begins at `position`, and where its end mark is."""
        found = []
        self.file.seek(position)
        with tarfile.open(fileobj=self.file, mode="r:", tarinfo=_StrictTarInfo) as tar:
            while (info := tar.next()) is not None:
                if info.islnk() or info.issym() or info.issparse():
                    raise DataError(
                        f"{self.place} holds {info.name}, a link or a file with holes, whose bytes do not lie there "
                        "in one piece",
                        "write the tar anew, with --dereference --hard-dereference and without --sparse",
                    )
                if info.offset_data + info.size > self.end:
                    raise tarfile.ReadError(f"{info.name} goes on beyond its end")
                if info.isreg() and not _is_litter(info.name):
                    found.append(Member(info.name, info.offset_data, info.size))
            if tar.offset + tarfile.BLOCKSIZE > self.end:  # the zeros there are those of the tar around it
                raise _NoEndMarkError(_NO_END_MARK)
            return found, tar.offset

    def find_next(self, end_mark: int) -> int | None:
        """Return where another tar begins after the end mark at `end_mark`, None where there are only zeros.

        Raises DataError for anything else.
        """
        other = self._first_other_than_zero(end_mark)
        begin = self.end if other is None else other - (other - self.start) % tarfile.BLOCKSIZE
        where = f"its end mark, byte {end_mark - self.start:,}"
        if begin - end_mark > _MOST_ZEROS:
            raise DataError(
                f"{self.place} has {begin - end_mark:,} zeros from {where}, on: that is no whole download",
                "download it again and compare its checksum",
            )
        if other is None:
            return None
        self.file.seek(begin)
        block = self.file.read(min(tarfile.BLOCKSIZE, self.end - begin))
        if _is_header(block):
            if begin - end_mark >= _END_MARK:
                return begin
            raise tarfile.ReadError(f"a block of zeros lies among its files, at byte {end_mark - self.start:,}")
        raise DataError(
            f"{self.place} goes on after {where}, with what is no tar: {block[other - begin :][:16]!r} "
            f"at byte {other - self.start:,}",
            "download it again and compare its checksum; if all before that byte is right, cut the rest off: "
            f"truncate -s {end_mark - self.start + _END_MARK} FILE",
        )

    def _first_other_than_zero(self, position: int) -> int | None:
        self.file.seek(position)
        while chunk := self.file.read(min(_CHUNK, self.end - position)):
            rest = chunk.lstrip(b"\0")
            if rest:
                return position + len(chunk) - len(rest)
            position += len(chunk)
        return None


def _is_litter(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return is_litter(name) or _is_below_litter(folder)


@lru_cache(maxsize=1024)  # a tar has many files in few folders
def _is_below_litter(folder: str) -> bool:
    return any(is_litter(part) for part in folder.split("/") if part != ".")


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def first_paths(path: Path, mode: Literal["r:", "r:*"] = "r:") -> list[str]:
    """Return the paths of the first files in the tar at `path`; of a damaged one, those before the damage.

    With "r:*" it may be compressed.
    """
    found: list[str] = []
    damage = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
    with suppress(*damage), tarfile.open(path, mode) as tar:
        while len(found) < _FIRST and (info := tar.next()) is not None:
            if info.isreg() and not _is_litter(info.name):
                found.append(info.name)
    return found


def unpack(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes) of every regular file in a tar, gzipped or not, in one pass; tars in it are entered.

    Raises DataError if it is damaged or no tar, OSError if it cannot be read.
    """
    with path.open("rb") as file:
        yield from _unpack(file, path.name)


def _unpack(file: io.BufferedReader, place: str) -> Iterator[tuple[str, bytes]]:
    content = content_of(file.peek(2))  # of gzip; browsers may have undone that already, whatever its name
    stream = gzip.GzipFile(fileobj=file) if content and content.name == "gzip" else file
    with _damage_named(place), tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo) as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or half a million of them stay in memory
            inner = tar.extractfile(info)
            if inner is None:
                continue
            assert isinstance(inner, io.BufferedReader)
            where = f"{place}/{info.name}"
            if info.name.endswith((".tar", ".tar.gz", ".tgz")):
                yield from _unpack(inner, where)
            else:
                yield where, inner.read()
        rest: io.BufferedIOBase = tar.fileobj  # type: ignore[assignment]  # to the end: gzip's checksum comes last
        while data := rest.read(tarfile.RECORDSIZE):
            if any(data):
                raise tarfile.ReadError("it goes on after its end mark")


class _NoEndMarkError(tarfile.ReadError):
    """A tar ends where a header or the end mark should be."""


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses a header that is damaged or missing; tarfile would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the mark of the end
                raise
            if not buf:
                raise _NoEndMarkError(_NO_END_MARK) from error
            raise tarfile.ReadError(str(error)) from error


@contextmanager
def _damage_named(place: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        hint = "download it again and compare its checksum"
        if isinstance(error, _NoEndMarkError):
            hint += "; if it is whole, whatever wrote it left the mark out: truncate -s +1024 FILE adds it"
        raise DataError(f"{place} is damaged, cut short or no tar: {error}", hint) from error
