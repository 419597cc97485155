"""A prepared ROOT of crops of scikit-learn's two photos, in odd sizes and some of them grey, written by `records`."""

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.records.image_record import ENCODED, ImageRecord, locate_bytes
from imagesprint.records.index import Index
from imagesprint.records.manifest import ClassInfo, Manifest, ShardInfo, SplitInfo
from imagesprint.records.tfrecord import file_crc, frame

NUM_TRAIN, NUM_VALIDATION = 37, 11
CLASSES = ("china", "flower")


def draw_images(count: int, seed: int) -> list[Image.Image]:
    photos = [Image.fromarray(array) for array in load_sample_images().images]
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        width, height = (int(side) for side in rng.integers(20, 110, 2))
        left, top = int(rng.integers(0, 640 - width)), int(rng.integers(0, 427 - height))
        image = photos[i % 2].crop((left, top, left + width, top + height))
        images.append(image.convert("L") if i % 7 == 0 else image)
    return images


def shrink(image: Image.Image, side: int) -> Image.Image:
    scale = min(1.0, side / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)))


def make_records(images: Sequence[Image.Image]) -> list[ImageRecord]:
    records = []
    for i, image in enumerate(images):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        boxes = np.array([[0.1, 0.2, 0.6, 0.7]] * (i % 3), np.float32).reshape(-1, 4)
        label = i % len(CLASSES)
        records.append(
            ImageRecord(
                file.getvalue(), image.height, image.width, label, f"n{label}", CLASSES[label], f"image{i}.jpg", boxes
            )
        )
    return records


def write_split(folder: Path, split: str, records: Sequence[ImageRecord]) -> SplitInfo:
    """Two shards and their index."""
    rows: list[tuple[int, ...]] = []
    shards = []
    for number, part in enumerate((records[: len(records) // 2], records[len(records) // 2 :])):
        path = folder / f"{split}-{number:05}-of-00002"
        with path.open("wb") as file:
            for record in part:
                payload = record.to_example()
                size = (record.label, record.height, record.width)
                rows.append((number, file.tell(), len(payload), *locate_bytes(payload, ENCODED), *size))
                file.write(frame(payload))
        shards.append(ShardInfo(path.name, path.stat().st_size, len(part), file_crc(path)))
    columns = np.array(rows, np.int64).T
    index = Index(
        shard_names=tuple(shard.name for shard in shards),
        shard_sizes=np.array([shard.bytes for shard in shards]),
        shard=columns[0].astype(np.int32),
        offset=columns[1],
        length=columns[2].astype(np.int32),
        encoded_offset=columns[3].astype(np.int32),
        encoded_length=columns[4].astype(np.int32),
        label=columns[5].astype(np.int32),
        height=columns[6].astype(np.int32),
        width=columns[7].astype(np.int32),
        box_start=np.cumsum([0, *(len(record.boxes) for record in records)]),
        boxes=np.concatenate([record.boxes for record in records]),
    )
    index_path = folder / f"{split}.index.npz"
    index.write(index_path)
    return SplitInfo(len(records), len(CLASSES), index_path.name, file_crc(index_path), tuple(shards))


def write_variant(folder: Path, train: Sequence[ImageRecord], validation: Sequence[ImageRecord]) -> None:
    folder.mkdir(parents=True)
    splits = {"train": write_split(folder, "train", train), "validation": write_split(folder, "validation", validation)}
    classes = tuple(ClassInfo(name, "", name) for name in CLASSES)
    Manifest(folder.name, "jpeg", 1, classes, splits, {}).write(folder)


@pytest.fixture(scope="session")
def root_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ROOT with the variants full and 24, 37 training and 11 validation images. Not to be written to."""
    root = tmp_path_factory.mktemp("root")
    train, validation = draw_images(NUM_TRAIN, 0), draw_images(NUM_VALIDATION, 1)
    write_variant(root / "full", make_records(train), make_records(validation))
    small = [[shrink(image, 24) for image in images] for images in (train, validation)]
    write_variant(root / "24", make_records(small[0]), make_records(small[1]))
    return root


@pytest.fixture
def write_root(tmp_path: Path) -> Callable[[Sequence[ImageRecord]], Path]:
    """Writes a ROOT with the given training records as its one variant, full."""

    def write(train: Sequence[ImageRecord]) -> Path:
        write_variant(tmp_path / "root" / "full", train, train[:2])
        return tmp_path / "root"

    return write


@pytest.fixture
def train_records() -> list[ImageRecord]:
    return make_records(draw_images(16, 2))


@pytest.fixture
def own_threads() -> Callable[[], list[str]]:
    """Returns the names of the threads that loaders and decoders have started since and that still run."""
    before = set(threading.enumerate())  # of a server, too, that other tests of this process share

    def names() -> list[str]:
        since = set(threading.enumerate()) - before
        return [thread.name for thread in since if thread.name.startswith("imagesprint-")]

    return names
