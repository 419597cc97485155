"""TensorFlow itself reads prepared shards as it does those of the Inception script."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imagesprint.records.dataset import open_dataset

tf: Any = pytest.importorskip("tensorflow", reason="`make interop` installs TensorFlow and runs these tests")

SYNSETS = {"china": "n03126707", "flower": "n11879895"}


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def kaggle_tree(photos: Path, tmp_path: Path) -> Path:
    """ImageNet as Kaggle has it: 20 training images, of which every other one has two boxes, and 6 of validation."""
    tree, solution = tmp_path / "kaggle", "ImageId,PredictionString\n"
    for path in sorted(photos.glob("train/*/0*.jpg")):
        synset = SYNSETS[path.parent.name]
        write(tree / f"ILSVRC/Data/CLS-LOC/train/{synset}/{synset}_{path.stem}.JPEG", path.read_bytes())
        box = f"<object><name>{synset}</name><bndbox><xmin>%d</xmin><ymin>%d</ymin><xmax>%d</xmax><ymax>%d</ymax>"
        boxes = "".join(box % sides + "</bndbox></object>" for sides in ((3, 5, 17, 29), (0, 0, 31, 40)))
        xml = f"<annotation><size><width>37</width><height>41</height></size>{boxes}</annotation>"
        if int(path.stem) % 2:
            write(tree / f"ILSVRC/Annotations/CLS-LOC/train/{synset}/{synset}_{path.stem}.xml", xml.encode())
    for number, path in enumerate(sorted(photos.glob("val/*/0[0-2].jpg")), 1):
        write(tree / f"ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{number:08}.JPEG", path.read_bytes())
        solution += f"ILSVRC2012_val_{number:08},{SYNSETS[path.parent.name]} 1 2 3 4\n"
    write(tree / "LOC_val_solution.csv", solution.encode())
    mapping = "".join(f"{synset} {name}, of scikit-learn\n" for name, synset in SYNSETS.items())
    write(tree / "LOC_synset_mapping.txt", mapping.encode())
    return tree


def parse(payload: Any) -> tuple[Any, Any, Any, Any]:
    """Image, label, boxes [1, K, 4] and text by the feature description of inception/image_processing.py."""
    description = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string, default_value=""),
        "image/class/label": tf.io.FixedLenFeature([1], tf.int64, default_value=-1),
        "image/class/text": tf.io.FixedLenFeature([], tf.string, default_value=""),
    }
    sides = [f"image/object/bbox/{side}" for side in ("ymin", "xmin", "ymax", "xmax")]
    description.update({side: tf.io.VarLenFeature(tf.float32) for side in sides})
    features = tf.io.parse_single_example(payload, description)
    boxes = tf.concat([features[side].values[None] for side in sides], 0)
    image = tf.io.decode_jpeg(features["image/encoded"], channels=3, dct_method="INTEGER_ACCURATE")
    return image, features["image/class/label"], tf.transpose(boxes[None], [0, 2, 1]), features["image/class/text"]


def decode(encoded: memoryview) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.mark.parametrize("variant", ["full", "32"])
def test_labels_boxes_and_pixels_are_the_same(
    imagesprint: Callable[..., Any], kaggle_tree: Path, tmp_path: Path, variant: str
) -> None:
    root = tmp_path / "root"
    assert imagesprint("prepare", kaggle_tree, root, "--variants", variant, "--shards", 2, "--workers", 1).code == 0
    number_of_boxes = 0
    for split in ("train", "validation"):
        shards = sorted(str(path) for path in (root / variant).glob(f"{split}-*-of-*"))
        dataset = open_dataset(root, variant, split)
        found = list(tf.data.TFRecordDataset(shards).map(parse))
        assert len(found) == len(dataset) == {"train": 20, "validation": 6}[split]
        for i, (image, label, boxes, text) in enumerate(found):
            assert int(label[0]) == dataset.labels[i] + 1
            assert text.numpy().decode() == dataset.read_record(i).text
            assert np.array_equal(boxes[0].numpy(), dataset.boxes(i))
            assert np.array_equal(image.numpy(), decode(dataset.read(i)))
            number_of_boxes += len(dataset.boxes(i))
    assert number_of_boxes == 20
