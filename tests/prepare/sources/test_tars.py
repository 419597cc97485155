import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.errors import DataError
from imagesprint.prepare.sources.source import SourceImage
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
        sample = SourceImage(f"outer.tar/n01.tar/{member.path}", 0, member.num_bytes, member.offset)
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
    sample = SourceImage(f"a.tar/{member.path}", 0, member.num_bytes, member.offset)
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
        (lambda data: data[:1536], "ends without the end mark"),  # between two images
        (lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512), "ends without the end mark"),
        (lambda data: data[:1536] + bytes(512) + data[1536:], "a block of zeros lies among its files, at byte 1,536"),
        (flip_checksum, "bad checksum"),
        (lambda _: b"no header" * 99, "(bad checksum|invalid header)"),
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


@pytest.mark.parametrize("zeros", [0, 512, 1 << 20])
def test_zeros_after_the_end_mark_are_nothing(tmp_path: Path, zeros: int) -> None:
    end = len(make(tmp_path / "a.tar", FILES).rstrip(b"\0"))
    end += -end % 512
    with (tmp_path / "a.tar").open("r+b") as file:
        file.truncate(end + 512 + zeros // 2)  # one block of zeros is an end mark, too
    tars = Tars(tmp_path)
    assert len(tars.members("a.tar")) == 3
    assert not tars.notes


def test_tars_one_after_the_other_are_read_to_the_end(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, {name: b"x" * 700}) for name in ("a.JPEG", "b.JPEG"))
    (tmp_path / "a.tar").write_bytes(first + second + bytes(5000))
    make(tmp_path / "outer.tar", {"n01.tar": first + second})
    tars = Tars(tmp_path)
    inner = tars.inner_members("outer.tar", tars.members("outer.tar")[0])
    for archive, members in (("a.tar", tars.members("a.tar")), ("outer.tar", inner)):
        assert [member.path for member in members] == ["a.JPEG", "b.JPEG"]
        assert list(tars.contents(archive, members)) == [b"x" * 700] * 2
    assert tars.notes == ("a.tar is several tars, one after the other (as are 1 more): the files of all are used",)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (
            b"<html>503</html>",
            r"goes on after its end mark, byte 5,632, with what is no tar: b'<html>503</html>' at byte",
        ),
        (b"\0" * 700 + b"x", "goes on after its end mark, byte 5,632, with what is no tar: b'x' at byte 10,940"),
        (gzip.compress(b"n02.tar", mtime=0), "with what is no tar: .* at byte 10,240"),
        (bytes((1 << 20) + 1), r"has 1,053,185 zeros from its end mark, byte 5,632, on"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_anything_else_after_the_end_mark_is_named(tmp_path: Path, more: bytes, what: str, inside: bool) -> None:
    data = make(tmp_path / "n01.tar", FILES) + more
    (tmp_path / "n01.tar").write_bytes(data)
    tars = Tars(tmp_path)
    if inside:
        make(tmp_path / "outer.tar", {"n00.JPEG": b"", "n01.tar": data})
        outer = tars.members("outer.tar")[1]
    with pytest.raises(DataError, match=what) as caught:
        tars.inner_members("outer.tar", outer) if inside else tars.members("n01.tar")
    assert str(caught.value).startswith("outer.tar/n01.tar" if inside else "n01.tar")
    assert "checksum" in caught.value.hint
    if "truncate" in caught.value.hint:
        with (tmp_path / "n01.tar").open("r+b") as file:
            file.truncate(int(caught.value.hint.split()[-2]))
        assert len(tars.members("n01.tar")) == 3


def test_hint_for_a_tar_without_an_end_mark_helps(tmp_path: Path) -> None:
    data = make(tmp_path / "a.tar", FILES)[:5632]
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match="ends without the end mark") as caught:
        Tars(tmp_path).members("a.tar")
    assert "truncate -s +1024 FILE" in caught.value.hint
    (tmp_path / "a.tar").write_bytes(data + bytes(1024))
    assert len(Tars(tmp_path).members("a.tar")) == 3


@pytest.mark.parametrize("cut", [5632, 5632 - 100])
def test_the_end_mark_of_the_tar_around_is_no_other(tmp_path: Path, cut: int) -> None:
    data = make(tmp_path / "n01.tar", {**FILES, "empty.JPEG": b"x"})
    make(tmp_path / "outer.tar", {"n01.tar": data[: cut + 512]})
    tars = Tars(tmp_path)
    with pytest.raises(DataError, match=r"outer\.tar/n01\.tar is damaged.* ends without the end mark"):
        tars.inner_members("outer.tar", tars.members("outer.tar")[0])


@pytest.mark.parametrize(
    ("pack", "what", "hint"),
    [
        (gzip.compress, "is compressed with gzip", "gunzip < FILE > FILE.plain && mv FILE.plain FILE"),
        (bz2.compress, "is compressed with bzip2", "bunzip2 <"),
        (lzma.compress, "is compressed with xz", "unxz <"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "is compressed with zstd", "unzstd <"),
        (lambda data: b"PK\3\4" + data, "is a zip archive", "unpack it"),
        (lambda _: b"\n <!DOCTYPE html><title>403", "is a page of a web server", "login"),
        (
            lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "is a pointer of git-lfs",
            "git lfs pull",
        ),
        (lambda _: b"", "is empty: it has 0 bytes", "download it again"),
        (lambda _: bytes(10240), "is an empty tar: all of its 10,240 bytes are zeros", "download it again"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_no_tar_is_called_what_it_is(
    tmp_path: Path, pack: Callable[[bytes], bytes], what: str, hint: str, inside: bool
) -> None:
    data = pack(make(tmp_path / "n01.tar", FILES))
    (tmp_path / "n01.tar").write_bytes(data)
    make(tmp_path / "outer.tar", {"n01.tar": data, "n02.tar": b"next"})
    tars = Tars(tmp_path)
    with pytest.raises(DataError, match=f"n01.tar {what}") as caught:
        tars.inner_members("outer.tar", tars.members("outer.tar")[0]) if inside else tars.members("n01.tar")
    assert hint in caught.value.hint


def test_a_file_twice_is_an_error(tmp_path: Path) -> None:
    data = make(tmp_path / "a.tar", FILES)
    (tmp_path / "a.tar").write_bytes(data * 2)
    with pytest.raises(DataError, match=r"a\.tar holds a\.JPEG twice"):
        Tars(tmp_path).members("a.tar")


def test_litter_is_left_out(tmp_path: Path) -> None:
    names = ["./a.JPEG", "__MACOSX/._a.JPEG", "n01/@eaDir/a.JPEG/thumb.jpg", ".x/b.JPEG", "Thumbs.db", "./n01/b.JPEG"]
    make(tmp_path / "a.tar", dict.fromkeys(names, b""))
    assert [member.path for member in Tars(tmp_path).members("a.tar")] == ["./a.JPEG", "./n01/b.JPEG"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_form(tmp_path: Path, form: int) -> None:
    names = ["ä.JPEG", "x" * 90 + "/" + "y" * 90 + ".JPEG", "b.TAR/c.JPEG"]
    with tarfile.open(tmp_path / "a.TAR", "w", format=form) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    tars = Tars(tmp_path)
    assert [member.path for member in tars.members("a.TAR")] == names
    assert tars.read(SourceImage(f"a.TAR/{names[2]}", 0, 0)) == b""


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


def test_what_follows_the_end_mark_in_a_stream_is_an_error(tmp_path: Path) -> None:
    data = make(tmp_path / "outer", FILES)
    (tmp_path / "x.tgz").write_bytes(gzip.compress(data + bytes(20_000)))
    assert len(list(unpack(tmp_path / "x.tgz"))) == len(FILES)
    for more in (data, b"garbage", bytes(20_000) + b"x"):
        (tmp_path / "x.tgz").write_bytes(gzip.compress(data + more))
        with pytest.raises(DataError, match=r"^x\.tgz is damaged, cut short or no tar: it goes on after its end mark"):
            list(unpack(tmp_path / "x.tgz"))
