"""Images in tars that are never unpacked: what lies where in them, and the bytes at a place."""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from imagesprint.errors import DataError
from imagesprint.prepare.sources.source import Sample, Stamp

_GZIP_MAGIC = b"\x1f\x8b"


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


class Tars:
    """The tars below `folder`: listed with a stamp each, then read in place. Small to pickle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamps: dict[str, Stamp] = {}

    def members(self, archive: str) -> list[Member]:
        """Return the files in the tar at the relative path `archive`, hidden ones left out.

        Raises DataError if it is damaged, no tar or holds links, OSError if it cannot be read.
        """
        status = (self._folder / archive).stat()
        self._stamps[archive] = Stamp.of(status)
        return self._list(archive, 0, status.st_size, archive)

    def inner_members(self, archive: str, inner: Member) -> list[Member]:
        """Return the files in a tar that is itself a member of `archive`; their offsets are into `archive`.

        Raises DataError if it is damaged, no tar or holds links, OSError if it cannot be read.
        """
        return self._list(archive, inner.offset, inner.offset + inner.num_bytes, f"{archive}/{inner.path}")

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample located in a listed tar, at ARCHIVE.tar/….

        Raises DataError if the archive cannot be read or is not the one that was listed.
        """
        archive = sample.location.partition(".tar/")[0] + ".tar"
        path = self._folder / archive
        try:
            with path.open("rb", buffering=0) as file:
                self._stamps[archive].check(os.fstat(file.fileno()), archive)
                data = os.pread(file.fileno(), sample.num_bytes, sample.offset)
        except OSError as error:
            raise DataError(
                f"cannot read {sample.location}: {error.strerror}",
                f"see to {path}, then give the same command again",
            ) from error
        return data

    def _list(self, archive: str, start: int, end: int, place: str) -> list[Member]:
        found = []
        with (self._folder / archive).open("rb") as file, _damage_named(place):
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictTarInfo) as tar:
                while (info := tar.next()) is not None:
                    if info.islnk() or info.issym() or info.issparse():
                        raise _not_in_one_piece(place, info.name)
                    if info.offset_data + info.size > end:
                        raise tarfile.ReadError(f"{info.name} goes on beyond its end")
                    if info.isreg() and not info.name.rpartition("/")[2].startswith("."):
                        found.append(Member(info.name, info.offset_data, info.size))
        return found


def _not_in_one_piece(place: str, name: str) -> DataError:
    return DataError(
        f"{place} holds {name}, a link or a file with holes, whose bytes do not lie there in one piece",
        "write the tar anew, with --dereference --hard-dereference and without --sparse",
    )


def unpack(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes) of every regular file in a tar, gzipped or not, in one pass; tars in it are entered.

    Raises DataError if it is damaged or no tar, OSError if it cannot be read.
    """
    with path.open("rb") as file:
        yield from _unpack(file, path.name)


def _unpack(file: io.BufferedReader, place: str) -> Iterator[tuple[str, bytes]]:
    stream = _plain(file)
    with _damage_named(place), tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo) as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or half a million of them stay in memory
            content = tar.extractfile(info)
            if content is None:
                continue
            assert isinstance(content, io.BufferedReader)
            where = f"{place}/{info.name}"
            if info.name.endswith((".tar", ".tar.gz", ".tgz")):
                yield from _unpack(content, where)
            else:
                yield where, content.read()
        while stream.read(tarfile.RECORDSIZE):
            pass  # gzip's checksum comes last


def _plain(file: io.BufferedReader) -> io.BufferedReader | gzip.GzipFile:
    """Return a stream of what is in `file` once unzipped; browsers may have done that already, whatever its name."""
    if file.peek(2)[:2] != _GZIP_MAGIC:
        return file
    return gzip.GzipFile(fileobj=file)


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses a header that is damaged or missing; tarfile would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the mark of the end
                raise
            raise tarfile.ReadError(str(error)) from error


@contextmanager
def _damage_named(place: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{place} is damaged, cut short or no tar: {error}", "download it again and compare its checksum"
        ) from error
