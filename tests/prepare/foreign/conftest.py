"""What the tests of `index` share."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagesprint.console import Console
from imagesprint.records.dataset import open_dataset
from imagesprint.records.verify import verify

CheckImage = Callable[[bytes], tuple[int, int]]


@pytest.fixture
def check_image() -> CheckImage:
    """Decode an image with Pillow; return its height and width."""

    def check(encoded: bytes) -> tuple[int, int]:
        image = Image.open(io.BytesIO(encoded))
        image.load()
        return image.height, image.width

    return check


@pytest.fixture
def assert_sound(check_image: CheckImage) -> Callable[..., None]:
    """Everything that the shards hold can be read through the variant."""

    def check(root: Path, variant: str = "full") -> None:
        assert verify(root, Console(quiet=True), check_image).is_sound
        dataset = open_dataset(root, variant, "train")
        assert len(dataset) == 40
        assert sorted(dataset.labels.tolist()) == [0] * 20 + [1] * 20
        for i in range(len(dataset)):
            record = dataset.read_record(i)
            assert record.text == ("china", "flower")[dataset.labels[i]]
            assert record.encoded == bytes(dataset.read(i))
            assert (record.height, record.width) == tuple(dataset.sizes[i].tolist()) == check_image(record.encoded)
            assert np.array_equal(record.boxes, dataset.boxes(i))
        assert sum(len(dataset.boxes(i)) for i in range(40)) == 28

    return check
