import errno
import itertools
import os
import struct
from pathlib import Path

import google_crc32c
import pytest

from imagesprint.errors import RecordError
from imagesprint.records.tfrecord import FRAME_BYTES, file_crc, frame, iter_records, masked_crc, read_record

PAYLOADS = [b"first", b"", bytes(range(256)) * 40]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(b"".join(map(frame, PAYLOADS)))
    return path


def test_crc_known_answers() -> None:
    # RFC 3720, appendix B.4, and the mask of tensorflow/core/lib/hash/crc32c.h worked out by hand.
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA
    assert masked_crc(bytes(32)) == ((0x8A9136AA >> 15) + ((0x8A9136AA << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def test_frame_is_length_crc_payload_crc() -> None:
    framed = frame(b"abc")
    assert len(framed) == 3 + FRAME_BYTES
    assert struct.unpack("<QI3sI", framed) == (3, masked_crc(struct.pack("<Q", 3)), b"abc", masked_crc(b"abc"))


def test_records_come_back_with_their_offsets(shard: Path) -> None:
    assert list(iter_records(shard)) == [(0, PAYLOADS[0]), (21, b""), (37, PAYLOADS[2])]


def test_reads_that_bring_less_than_asked_for_go_on(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: whole(fd, max(1, size // 2), offset))
    assert list(iter_records(shard)) == [(0, PAYLOADS[0]), (21, b""), (37, PAYLOADS[2])]


@pytest.mark.parametrize("failing", range(6))  # the header and the whole of three records
def test_a_read_that_fails_names_the_shard(shard: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    whole, calls = os.pread, itertools.count()

    def pread(fd: int, size: int, offset: int) -> bytes:
        if next(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(RecordError, match=f"{shard}.*cannot be read: Input/output error"):
        list(iter_records(shard))


def test_empty_shard_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(iter_records(tmp_path / "empty")) == []


def test_one_record_is_read_at_its_offset(shard: Path) -> None:
    fd = os.open(shard, os.O_RDONLY)
    assert read_record(fd, 37, len(PAYLOADS[2]), shard) == PAYLOADS[2]
    with pytest.raises(RecordError, match="5 bytes long, not 4"):
        read_record(fd, 0, 4, shard)
    os.close(fd)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    whole = frame(b"payload")
    path = tmp_path / "shard"
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=f"{path}: the record at byte 0 "):
            list(iter_records(path))


def test_every_truncation_is_found(tmp_path: Path) -> None:
    whole = frame(b"one") + frame(b"two")
    path = tmp_path / "shard"
    for size in range(len(frame(b"one")) + 1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(RecordError, match="at byte 19 is cut short"):
            list(iter_records(path))
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(RecordError, match="at byte 19 is cut short"):
            read_record(fd, 19, 3, path)
        os.close(fd)


def test_absurd_length_with_a_sound_crc_is_no_allocation(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    (tmp_path / "shard").write_bytes(length + struct.pack("<I", masked_crc(length)) + bytes(100))
    with pytest.raises(RecordError, match="cut short: 112 of"):
        list(iter_records(tmp_path / "shard"))


def test_missing_shard(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file"):
        list(iter_records(tmp_path / "none"))


def test_file_crc_is_that_of_all_bytes(shard: Path) -> None:
    assert file_crc(shard) == google_crc32c.value(shard.read_bytes())
