import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.errors import DataError
from imagesprint.prepare.sources.source import Sample
from imagesprint.prepare.sources.tars import Tars, unpack

LONG = f"deep/{'x' * 120}.JPEG"
FILES = {"a.JPEG": b"one", LONG: b"two" * 400, ".hidden": b"", "empty.JPEG": b""}


def make(path: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def test_members_are_read_in_place(tmp_path: Path) -> None:
    inner = make(tmp_path / "inner", FILES)
    make(tmp_path / "outer.tar", {"first": b"-" * 700, "n01.tar": inner})
    tars = Tars(tmp_path)
    first, second = tars.members("outer.tar")
    assert (first.path, second.stem) == ("first", "n01")
    found = tars.inner_members("outer.tar", second)
    assert [member.path for member in found] == ["a.JPEG", LONG, "empty.JPEG"]
    read = pickle.loads(pickle.dumps(tars)).read  # as a worker gets it
    for member in found:
        sample = Sample(f"outer.tar/n01.tar/{member.path}", 0, member.num_bytes, member.offset)
        assert read(sample) == FILES[member.path]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE])
def test_what_cannot_be_read_in_place_is_named(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("a.JPEG"))
        info = tarfile.TarInfo("again.JPEG")
        info.type, info.linkname = kind, "a.JPEG"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"a\.tar holds again\.JPEG, a link or a file with holes"):
        Tars(tmp_path).members("a.tar")


def test_archive_that_changed_or_vanished(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    make(path, FILES)
    tars = Tars(tmp_path)
    member = tars.members("a.tar")[0]
    sample = Sample(f"a.tar/{member.path}", 0, member.num_bytes, member.offset)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(DataError, match=r"a.tar changed while it was prepared: it was written to"):
        tars.read(sample)
    path.write_bytes(b"shorter")
    with pytest.raises(DataError, match=r"a.tar changed while it was prepared: \d+ bytes before, 7 now"):
        tars.read(sample)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read a.tar/a.JPEG: No such file"):
        tars.read(sample)


def flip_checksum(data: bytes) -> bytes:
    second = data.index(b"a.JPEG")
    return data[:second] + b"b" + data[second + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:3500], "goes on beyond its end"),
        (lambda data: data[:2000], "truncated header"),
        (lambda data: data[:1200], "unexpected end of data"),
        (lambda data: data[:1536], "empty header"),  # between two images
        (flip_checksum, "bad checksum"),
        (lambda _: b"<html>not found</html>" * 99, "(bad checksum|invalid header)"),
        (lambda _: b"", "empty"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_damaged_tars(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str, inside: bool) -> None:
    data = damage(make(tmp_path / "n01.tar", FILES))
    tars = Tars(tmp_path)
    if not inside:
        (tmp_path / "n01.tar").write_bytes(data)
        with pytest.raises(DataError, match=rf"^n01.tar is damaged, cut short or no tar: .*{reason}") as caught:
            tars.members("n01.tar")
        assert "checksum" in caught.value.hint
        return
    make(tmp_path / "outer.tar", {"n01.tar": data, "n02.tar": b""})
    with pytest.raises(DataError, match=r"^outer.tar/n01.tar is damaged, cut short or no tar: "):
        tars.inner_members("outer.tar", tars.members("outer.tar")[0])


def test_unpacking_goes_into_tars(tmp_path: Path) -> None:
    inner = make(tmp_path / "inner", {"n01/1.xml": b"1", "n01/2.xml": b"2" * 999})
    outer = make(tmp_path / "outer", {"n01.tar.gz": gzip.compress(inner), "n02.tar": inner, "3.xml": b"3"})
    expected = [
        (f"x.tgz/{part}{name}", data)
        for part, name, data in (
            ("n01.tar.gz/", "n01/1.xml", b"1"),
            ("n01.tar.gz/", "n01/2.xml", b"2" * 999),
            ("n02.tar/", "n01/1.xml", b"1"),
            ("n02.tar/", "n01/2.xml", b"2" * 999),
            ("", "3.xml", b"3"),
        )
    ]
    for data in (gzip.compress(outer), outer):  # a browser may have unzipped it
        (tmp_path / "x.tgz").write_bytes(data)
        assert list(unpack(tmp_path / "x.tgz")) == expected


@pytest.mark.parametrize("cut", [50, -4])
def test_truncated_gzip(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(gzip.compress(make(tmp_path / "outer", FILES))[:cut])
    with pytest.raises(DataError, match=r"^x.tgz is damaged, cut short or no tar: "):
        list(unpack(path))
