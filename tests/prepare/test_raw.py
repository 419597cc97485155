"""Variants of raw pixels."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from imagesprint.console import Console
from imagesprint.errors import ImageError, RecordError, UsageError
from imagesprint.images.coding import open_image, shrink
from imagesprint.images.decoding import to_rgb
from imagesprint.loading.loader import Loader
from imagesprint.prepare.preparing import Summary, prepare
from imagesprint.recipes.recipe import Phase
from imagesprint.records.dataset import Dataset, open_dataset
from imagesprint.records.shard_files import Places
from imagesprint.records.tfrecord import iter_records
from imagesprint.records.verify import verify

ReadTree = Callable[[Path], dict[str, bytes]]


class _Lossless(Dataset):
    """The twin of a raw dataset: the same pixels as PNG files."""

    def __init__(self, raw: Dataset) -> None:
        super().__init__(raw.path, raw.split)
        self.image_format = "jpeg"

    def read(self, sample_id: int) -> memoryview:
        record, file = self.read_record(sample_id), io.BytesIO()
        Image.frombytes("RGB", (record.width, record.height), record.encoded).save(file, "PNG")
        return memoryview(file.getvalue())

    def places(self, sample_ids: npt.NDArray[np.int64]) -> Places:
        found = super().places(sample_ids)
        object.__setattr__(found, "read", lambda row: self.read(int(sample_ids[row])))
        return found


def make(source: Path, root: Path, **options: Any) -> Summary:
    settings: dict[str, Any] = {"variants": ("60", "32"), "image_format": "raw", "shards": 3, "workers": 1, **options}
    return prepare(source, root, console=Console(quiet=True), **settings)


@pytest.fixture(scope="module")
def raw_root(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "root"
    make(photos, root)
    return root


def test_pixels_are_those_of_the_original_shrunk(raw_root: Path, photos: Path) -> None:
    for variant in ("60", "32"):
        dataset = open_dataset(raw_root, variant, "train")
        assert dataset.image_format == "raw"
        for sample_id in range(0, len(dataset), 7):
            record = dataset.read_record(sample_id)
            file = photos / "train" / record.text / record.filename
            expected = shrink(to_rgb(open_image(file.read_bytes())), int(variant))
            assert (record.image_format, record.width, record.height) == ("raw", *expected.size)
            found = np.frombuffer(record.encoded, np.uint8).reshape(record.height, record.width, 3)
            # The native resizer rounds its weights.
            assert np.abs(found.astype(int) - np.asarray(expected, int)).max() <= 1
    assert verify(raw_root, Console(quiet=True)).problems == []


def test_shards_say_that_they_are_raw(raw_root: Path) -> None:
    _, payload = next(iter_records(raw_root / "32/train-00000-of-00003"))
    assert b"\x0a\x03RAW" in payload


def test_loads_the_same_pixels_as_a_lossless_twin(raw_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # PNGs go to Pillow: tests/images/test_native_batches.py has the other
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    raw = open_dataset(raw_root, "32", "train")
    phase = Phase((0, 2), (0.1, 0.1), "constant", 8, 4, 24, "32", 0.2)
    batches = []
    for dataset, threads in ((raw, 2), (_Lossless(raw), 1)):
        with Loader(dataset, phase, threads=threads) as loader:
            batches.append([(batch.sample_ids.tolist(), batch.images.numpy().copy()) for batch in loader])
    assert len(batches[0]) == 32
    for (ids, images), (twin_ids, twin_images) in zip(*batches, strict=True):
        assert ids == twin_ids
        np.testing.assert_array_equal(images, twin_images)
    assert images.std() > 10


def test_raw_variant_is_added_to_a_root_of_jpegs(photos: Path, tmp_path: Path, read_tree: ReadTree) -> None:
    make(photos, tmp_path / "root", variants=("full",), image_format="jpeg")
    assert make(photos, tmp_path / "root", workers=2).written == ("60", "32")
    raw = {name: data for name, data in read_tree(tmp_path / "root").items() if not name.startswith("full/")}
    make(photos, tmp_path / "alone")
    assert raw == read_tree(tmp_path / "alone")
    formats = [open_dataset(tmp_path / "root", name, "train").image_format for name in ("full", "60", "32")]
    assert formats == ["jpeg", "raw", "raw"]


def test_finished_variant_keeps_its_format(photos: Path, raw_root: Path, read_tree: ReadTree) -> None:
    before = read_tree(raw_root)
    with pytest.raises(UsageError, match=r"root/32 is there already, as raw, not jpeg") as caught:
        make(photos, raw_root, variants=("full", "32"), image_format="jpeg")
    assert "--format raw" in caught.value.hint
    assert read_tree(raw_root) == before


def test_unfinished_variant_keeps_its_format(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "root", part="0:1")
    with pytest.raises(UsageError, match="image_format: raw then, jpeg now"):
        make(photos, tmp_path / "root", image_format="jpeg")


def test_full_cannot_be_raw(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--format raw cannot be had for the variant full") as caught:
        make(photos, tmp_path / "root", variants=("full", "32"))
    assert "--variants 160" in caught.value.hint
    with pytest.raises(UsageError, match="no image format 'png'"):
        make(photos, tmp_path / "root", image_format="png")
    assert not (tmp_path / "root").exists()


def test_pixels_of_another_number_are_refused(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "root", variants=("32",), image_format="jpeg")
    manifest = tmp_path / "root/32/dataset.json"
    manifest.write_text(manifest.read_text().replace('"image_format": "jpeg"', '"image_format": "raw"'))
    dataset = open_dataset(tmp_path / "root", "32", "train")
    phase = Phase((0, 2), (0.1, 0.1), "constant", 8, 4, 24, "32", 0.2)
    with (
        pytest.raises((RecordError, ImageError), match=r"train-0000.-of-00003, record .* bytes .* no raw image of"),
        Loader(dataset, phase, threads=1) as loader,
    ):
        list(loader)
