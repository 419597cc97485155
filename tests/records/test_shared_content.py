from collections.abc import Callable
from pathlib import Path

import numpy as np

from imagesprint.console import Console
from imagesprint.records.image_record import ImageRecord
from imagesprint.records.shared_content import Digests, RecordPlace, SharedContent, digest
from imagesprint.records.verify import verify

WriteVariant = Callable[..., None]


def make_record(content: str, filename: str = "") -> ImageRecord:
    return ImageRecord(content.encode(), 5, 7, 0, "n0", "n0", filename or content)


def test_shared_images_are_paired(write_variant: WriteVariant, tmp_path: Path) -> None:
    train = [make_record(name) for name in ("a", "b", "c", "d")] + [make_record("b", "b-again")]
    validation = [make_record(name) for name in ("x", "b", "y", "d")] + [make_record("b", "b-third")]
    write_variant(tmp_path / "full", train, validation)
    found = verify(tmp_path, Console(quiet=True))
    assert found.problems == []
    assert not found.is_sound
    shards = ("train-00000-of-00001", "validation-00000-of-00001")
    assert found.shared_content == [
        SharedContent(RecordPlace(shards[0], 1, "b"), RecordPlace(shards[1], 1, "b")),
        SharedContent(RecordPlace(shards[0], 3, "d"), RecordPlace(shards[1], 3, "d")),
        SharedContent(RecordPlace(shards[0], 4, "b-again"), RecordPlace(shards[1], 1, "b")),
    ]


def test_the_largest_variant_is_looked_at(write_variant: WriteVariant, tmp_path: Path) -> None:
    """Where it is sound: two different photos may look alike when they are small."""
    same, other = [make_record("same")], [make_record("other")]
    write_variant(tmp_path / "320", same, other)
    write_variant(tmp_path / "32", same, same)
    assert verify(tmp_path, Console(quiet=True)).is_sound
    assert len(verify(tmp_path / "32", Console(quiet=True)).shared_content) == 1
    (tmp_path / "320" / "dataset.json").write_text("")
    assert len(verify(tmp_path, Console(quiet=True)).shared_content) == 1


def test_damaged_records_are_not_compared(
    write_variant: WriteVariant, tmp_path: Path, flip_bit: Callable[[Path, int], None]
) -> None:
    write_variant(tmp_path / "full", [make_record("a"), make_record("b")], [make_record("b"), make_record("a")])
    for split in ("train", "validation"):
        flip_bit(tmp_path / "full" / f"{split}-00000-of-00001", 40)
    found = verify(tmp_path, Console(quiet=True))
    assert [(problem.split, problem.record) for problem in found.problems] == [("train", 0), ("validation", 0)]
    assert found.shared_content == []
    (tmp_path / "full" / "train.index.npz").unlink()
    assert verify(tmp_path, Console(quiet=True)).shared_content == []


def test_digests_take_24_bytes_an_image() -> None:
    digests = Digests()
    for start in range(0, 3000, 1000):
        ids = list(range(start, start + 1000))
        digests.extend(ids, b"".join(digest(str(i).encode()) for i in ids))
    sample_ids, table = digests.table()
    assert sample_ids.tolist() == list(range(3000))
    assert (sample_ids.nbytes + table.nbytes) / 3000 == 24
    assert table[1234].tobytes() == digest(b"1234")
    assert len(np.unique(table, axis=0)) == 3000
