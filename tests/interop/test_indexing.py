"""Shards that TensorFlow itself writes are indexed, verified and trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagesprint.records.dataset import open_dataset

tf: Any = pytest.importorskip("tensorflow", reason="`make interop` installs TensorFlow and runs these tests")


def feature(*values: Any) -> Any:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def inception_example(file: Path, label: int) -> Any:
    """The tf.Example of build_imagenet_data.py."""
    with Image.open(file) as image:
        height, width = image.height, image.width
    features = {
        "image/height": feature(height),
        "image/width": feature(width),
        "image/colorspace": feature(b"RGB"),
        "image/channels": feature(3),
        "image/class/label": feature(label),
        "image/class/synset": feature(f"n{label:08}".encode()),
        "image/class/text": feature(file.parent.name.encode()),
        "image/object/bbox/xmin": feature(0.25),
        "image/object/bbox/xmax": feature(0.75),
        "image/object/bbox/ymin": feature(0.125),
        "image/object/bbox/ymax": feature(0.5),
        "image/object/bbox/label": feature(label),
        "image/format": feature(b"JPEG"),
        "image/filename": feature(file.name.encode()),
        "image/encoded": feature(file.read_bytes()),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def bare_example(file: Path, label: int) -> Any:
    features = {"image/class/label": feature(label), "image/encoded": feature(file.read_bytes())}
    return tf.train.Example(features=tf.train.Features(feature=features))


def write(pattern: str, files: list[Path], make: Callable[[Path, int], Any], first_label: int) -> None:
    for number in range(2):
        path = Path(pattern.format(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for file in files[number::2]:
                label = first_label + ("china", "flower").index(file.parent.name)
                writer.write(make(file, label).SerializeToString())


@pytest.mark.parametrize(
    ("train", "validation", "make", "first_label"),
    [
        ("train-{:05}-of-00002", "validation-{:05}-of-00002", inception_example, 1),
        ("train/train-{:05}-of-00002", "validation/validation-{:05}-of-00002", bare_example, 0),
    ],
)
def test_shards_of_tensorflow_are_indexed_verified_and_trained_on(
    imagesprint: Callable[..., Any],
    photos: Path,
    tmp_path: Path,
    train: str,
    validation: str,
    make: Callable[[Path, int], Any],
    first_label: int,
) -> None:
    data = tmp_path / "data"
    files = {"train": sorted(photos.glob("train/*/*.jpg")), "validation": sorted(photos.glob("val/*/*.jpg"))}
    write(f"{data}/{train}", files["train"], make, first_label)
    write(f"{data}/{validation}", files["validation"], make, first_label)
    indexed = imagesprint("index", data, "--json")
    assert indexed.code == 0, indexed.stderr
    (variant,) = indexed.json["variants"]
    assert variant["first_label"] == first_label
    assert variant["images"] == {"train": 70, "validation": 18}
    assert imagesprint("verify", data, "--decode", "--json").json["ok"]
    dataset = open_dataset(data, "full", "train")
    expected = [*files["train"][0::2], *files["train"][1::2]]
    assert [bytes(dataset.read(i)) for i in range(70)] == [file.read_bytes() for file in expected]
    assert dataset.labels.tolist() == [int(file.parent.name == "flower") for file in expected]
    boxes = [[0.125, 0.25, 0.5, 0.75]] if make is inception_example else []
    assert dataset.boxes(69).tolist() == boxes
    settings = ("--set", "phases.*.batch_size=8", "--set", "phases.*.micro_batch=4", "--set", "eval_batch_size=9")
    flags = ("--data", data, "--output", tmp_path / "run", "--device", "cpu", "--stop-after", 2, "--json")
    trained = imagesprint("train", "demo", *flags, *settings)
    assert trained.code == 0, trained.stderr
    assert trained.json["steps"] == 2
