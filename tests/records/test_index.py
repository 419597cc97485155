import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagesprint.errors import RecordError
from imagesprint.records.index import Index

COLUMNS = [field.name for field in dataclasses.fields(Index)]


def make_index(shard_name: str = "train-0", records: int = 3, boxes: int = 2) -> Index:
    def column(value: int) -> Any:
        return np.full(records, value, np.int32)

    return Index(
        shard_names=(shard_name,),
        shard_sizes=np.array([1000], np.int64),
        shard=column(0),
        offset=np.arange(records, dtype=np.int64) * 116,
        length=column(100),
        encoded_offset=column(20),
        encoded_length=column(80),
        label=np.arange(records, dtype=np.int32),
        height=column(7),
        width=column(9),
        box_start=np.minimum(np.arange(records + 1), boxes).astype(np.int64),
        boxes=np.linspace(0, 1, boxes * 4, dtype=np.float32).reshape(boxes, 4),
    )


def assert_equal(a: Index, b: Index) -> None:
    for name in COLUMNS:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    index = make_index()
    index.write(tmp_path / "a")
    index.write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert_equal(Index.read(tmp_path / "a"), index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("records", [0, 1])
def test_few_rows(tmp_path: Path, records: int) -> None:
    index = make_index(records=records, boxes=0)
    index.write(tmp_path / "a")
    assert_equal(Index.read(tmp_path / "a"), index)
    assert len(index) == records


def test_concatenate_numbers_shards_and_boxes_on(tmp_path: Path) -> None:
    joined = Index.concatenate([make_index("a"), make_index("b", records=0, boxes=0), make_index("c", boxes=1)])
    joined.write(tmp_path / "index")
    found = Index.read(tmp_path / "index")
    assert found.shard_names == ("a", "b", "c")
    assert found.shard.tolist() == [0, 0, 0, 2, 2, 2]
    assert found.box_start.tolist() == [0, 1, 2, 2, 3, 3, 3]
    assert np.array_equal(found.boxes[2], make_index().boxes[0] * 0 + make_index(boxes=1).boxes[0])


def test_missing_empty_and_no_zip(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="missing"):
        Index.read(tmp_path / "none")
    for content in (b"", b"not a zip", b"PK\x03\x04" + bytes(50)):
        (tmp_path / "index").write_bytes(content)
        with pytest.raises(RecordError, match="damaged"):
            Index.read(tmp_path / "index")


def test_every_truncation_is_found(tmp_path: Path) -> None:
    make_index().write(tmp_path / "index")
    whole = (tmp_path / "index").read_bytes()
    for size in range(0, len(whole), 37):
        (tmp_path / "index").write_bytes(whole[:size])
        with pytest.raises(RecordError, match="damaged"):
            Index.read(tmp_path / "index")


def test_damaged_bytes_are_an_error_or_harmless(tmp_path: Path) -> None:
    index = make_index()
    index.write(tmp_path / "index")
    whole = (tmp_path / "index").read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "index").write_bytes(damaged)
        try:
            found = Index.read(tmp_path / "index")
        except RecordError:
            continue
        assert_equal(found, index)  # a byte of the zip that nobody reads, a date for one


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shard": np.array([0, 0, 1], np.int32)}, "not among the 1"),
        ({"offset": np.array([0, 116, 900], np.int64)}, "beyond the end of its shard"),
        ({"offset": np.array([0, -116, 232], np.int64)}, "-116"),
        ({"encoded_length": np.array([80, 80, 81], np.int32)}, "beyond the end of its record"),
        ({"height": np.array([7, 0, 7], np.int32)}, "height has the value 0"),
        ({"label": np.array([0, -1, 2], np.int32)}, "label has the value -1"),
        ({"width": np.array([9, 9], np.int32)}, "2 rows for 3 records"),
        ({"box_start": np.array([0, 2, 1, 2], np.int64)}, "backwards"),
        ({"box_start": np.array([0, 1, 2, 3], np.int64)}, "do not belong together"),
        ({"shard_names": ("a", "b")}, "shard_names"),
    ],
)
def test_inconsistent_rows_are_named(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    dataclasses.replace(make_index(), **changes).write(tmp_path / "index")
    with pytest.raises(RecordError, match=match):
        Index.read(tmp_path / "index")


def test_a_file_that_its_disk_does_not_give_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=f"^cannot read index {tmp_path}: Is a directory$") as raised:
        Index.read(tmp_path)
    assert "delete" not in raised.value.hint
