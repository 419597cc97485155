"""A prepared ROOT that a test may damage, and one of records as a test wants them."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from imagesprint.records.image_record import ENCODED, ImageRecord, locate_bytes
from imagesprint.records.index import Index
from imagesprint.records.manifest import ClassInfo, Manifest, ShardInfo, write_split
from imagesprint.records.tfrecord import file_crc, frame


@pytest.fixture
def root(photo_root: Path, tmp_path: Path) -> Path:
    """A copy of `photo_root`: variants full and 32, three training shards and one for validation."""
    return Path(shutil.copytree(photo_root, tmp_path / "root"))


@pytest.fixture(scope="session")
def flip_bit() -> Callable[[Path, int], None]:
    """Flips one bit of the byte at a position of a file."""

    def flip(path: Path, position: int) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 0x10
        path.write_bytes(data)

    return flip


@pytest.fixture
def write_variant() -> Callable[..., None]:
    """Writes records of two classes, n0 and n1, as a variant: one shard a split."""

    def write(
        folder: Path, train: Sequence[ImageRecord], validation: Sequence[ImageRecord], image_format: str = "jpeg"
    ) -> None:
        folder.mkdir(parents=True)
        splits = {}
        for split, records in (("train", train), ("validation", validation)):
            path = folder / f"{split}-00000-of-00001"
            rows = []
            with path.open("wb") as file:
                for record in records:
                    payload = record.to_example()
                    place = (file.tell(), len(payload), *locate_bytes(payload, ENCODED))
                    rows.append((*place, record.label, record.height, record.width))
                    file.write(frame(payload))
            size = path.stat().st_size
            index = Index.of_shard(path.name, size, rows, [record.boxes for record in records])
            splits[split] = write_split(
                folder, split, index, (ShardInfo(path.name, size, len(records), file_crc(path)),)
            )
        classes = tuple(ClassInfo(synset, synset, synset) for synset in ("n0", "n1"))
        Manifest(folder.name, image_format, 1, classes, splits, {}).write(folder)

    return write
