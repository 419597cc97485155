"""Bad records: they stop the loader, or the next sound sample of the epoch's order stands in."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagesprint.errors import DataError, ImageError, RecordError
from imagesprint.images.draws import permutation
from imagesprint.images.native import is_available
from imagesprint.loading.loader import EvaluationLoader, Loader
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.records.image_record import ImageRecord

WriteRoot = Callable[[Sequence[ImageRecord]], Path]
PHASE = Phase((0, 2), (0.1, 0.1), "constant", 12, 4, 16)  # of 16 images: one step of three micro-batches an epoch
RECIPE = Recipe("test", (PHASE,), seed=3, bad_records="substitute")
ORDERS = [permutation(16, 3, epoch).tolist() for epoch in (0, 1)]
# In the first epoch: two after one another, one alone, and the last of the order, which no batch holds.
BAD = {ORDERS[0][1], ORDERS[0][2], ORDERS[0][7], ORDERS[0][15]}


@pytest.fixture(autouse=True, params=["pillow", "native", "native-portable"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is done with each decoder."""
    if request.param != "pillow" and not is_available():
        pytest.skip("the native decoder is not built")
    monkeypatch.setenv("IMAGESPRINT_DECODER", request.param)


def damage(root: Path, sample_id: int) -> None:
    """Flip a bit in the middle of the sample's image."""
    dataset = open_dataset(root, "full", "train")
    ids = np.array([sample_id])
    places = dataset.places(ids)
    with Path(str(places.path(0))).open("r+b") as file:
        file.seek(int(places.offsets[0] + places.lengths[0] // 2))
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


@pytest.fixture
def root(write_root: WriteRoot, train_records: list[ImageRecord]) -> Path:
    """16 images, four of them bad: of two the record, of two the image, of which one is none."""
    cut, no_image, *flipped = sorted(BAD)
    train_records[cut] = replace(train_records[cut], encoded=train_records[cut].encoded[:300])
    train_records[no_image] = replace(train_records[no_image], encoded=b"<html>not found</html>")
    root = write_root(train_records)
    for sample_id in flipped:
        damage(root, sample_id)
    return root


def expected_ids(order: list[int]) -> list[int]:
    """What an epoch's three micro-batches hold, found the slow way."""
    found = []
    for place in range(12):
        while order[place % 16] in BAD:
            place += 1
        found.append(order[place % 16])
    return found


def stream(root: Path, world_size: int = 1, start_step: int = 0, threads: int = 2, **change: Any) -> list[Any]:
    recipe = replace(RECIPE, **change)
    loaders = [Loader(root, recipe, rank, world_size, start_step, threads=threads) for rank in range(world_size)]
    found = []
    for together in zip(*loaders, strict=True):
        for batch in together:
            tensors = (batch.sample_ids, batch.labels, batch.mask, batch.images)
            found.append((batch.step, *(tensor.numpy().copy() for tensor in tensors)))
    assert sum(loader.bad_records for loader in loaders) == passed_over(range(start_step, 2))
    return found


def passed_over(steps: range) -> int:
    """How often a bad sample is met in these steps: once for every place that asks for it."""
    count = 0
    for step in steps:
        for place in range(12):
            while ORDERS[step][place % 16] in BAD:
                count, place = count + 1, place + 1
    return count


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        all(np.array_equal(x, y) for x, y in zip(left, right, strict=True)) for left, right in zip(a, b, strict=True)
    )


def test_the_next_sound_sample_stands_in(root: Path) -> None:
    found = stream(root)
    ids = [batch[1].tolist() for batch in found]
    assert list(chain(*ids[:3])) == expected_ids(ORDERS[0])
    assert list(chain(*ids[3:])) == expected_ids(ORDERS[1])
    assert [batch[2].tolist() for batch in found] == [[sample_id % 2 for sample_id in batch] for batch in ids]
    assert all(batch[3].all() for batch in found)
    # A stand-in has the crop and flip of its own id: its pixels are those that it has in its own place.
    stand_in = ORDERS[0][8]
    assert (ids[1][3], ids[2][0]) == (stand_in, stand_in)
    np.testing.assert_array_equal(found[1][4][3], found[2][4][0])


def test_the_stream_does_not_depend_on_ranks_threads_or_start(root: Path) -> None:
    whole = stream(root)
    assert same(stream(root, world_size=3), whole)
    assert same(stream(root, threads=1), whole)
    assert same(stream(root, threads=5), whole)
    assert same(stream(root, world_size=3, start_step=1), whole[3:])
    assert not same(stream(root, flip=False), whole)


def test_only_what_was_handed_over_is_counted(root: Path) -> None:
    loader = Loader(root, RECIPE)
    batches = iter(loader)
    next(batches)
    assert loader.bad_records == 3  # the first, and the second for two rows
    assert f"{root / 'full'}" in loader.first_bad_record
    next(batches)
    assert loader.bad_records == 4
    loader.close()


def test_at_the_end_of_the_order_it_goes_on_from_its_start(
    write_root: WriteRoot, train_records: list[ImageRecord]
) -> None:
    recipe = replace(RECIPE, phases=(replace(PHASE, batch_size=16, micro_batch=16),))
    order = ORDERS[0]
    root = write_root(train_records)
    for sample_id in (order[15], order[0]):
        damage(root, sample_id)
    first = next(iter(Loader(root, recipe)))
    assert first.sample_ids.tolist() == [order[1], *order[1:15], order[1]]


def test_by_default_a_bad_record_stops_and_the_hint_names_the_way_on(root: Path) -> None:
    with pytest.raises(DataError, match=r"train-0000[01]-of-00002") as caught:
        list(Loader(root, replace(RECIPE, bad_records="stop")))
    assert "--set bad_records=substitute" in caught.value.hint


def test_data_without_a_sound_record_stops(write_root: WriteRoot, train_records: list[ImageRecord]) -> None:
    root = write_root([replace(record, encoded=record.encoded[:200]) for record in train_records])
    with pytest.raises(RecordError, match=r"record \d+, image\d+\.jpg: .*the 15 samples after it .* are bad, too"):
        list(Loader(root, RECIPE))


def test_a_shard_that_cannot_be_opened_is_no_bad_record(root: Path) -> None:
    opened = open_root(root)
    loader = Loader(opened, RECIPE)
    (root / "full" / "train-00001-of-00002").unlink()
    with pytest.raises(RecordError, match="cannot open shard"):
        list(loader)
    assert loader.bad_records == 0


def test_raw_pixels_of_another_size(write_root: WriteRoot, train_records: list[ImageRecord]) -> None:
    pixels = [np.full((record.height, record.width, 3), 99, np.uint8).tobytes() for record in train_records]
    pixels[ORDERS[0][0]] = b"123"
    root = write_root([replace(record, encoded=raw) for record, raw in zip(train_records, pixels, strict=True)])
    manifest = root / "full" / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"jpeg"', '"raw"'))
    first = next(iter(Loader(root, RECIPE)))
    assert first.sample_ids.tolist() == [ORDERS[0][1], *ORDERS[0][1:4]]
    assert (first.images == 99).all()


def test_evaluation_never_substitutes_and_looks_at_every_row(
    write_root: WriteRoot, train_records: list[ImageRecord]
) -> None:
    """The last rows are outside of the central square; a training crop above them would not see that they are cut."""
    images = [replace(record, encoded=record.encoded) for record in train_records]
    tall = next(i for i, record in enumerate(images) if record.height > record.width + 20)
    images[tall] = replace(images[tall], encoded=images[tall].encoded[:-30])
    root = write_root(images)
    with pytest.raises(ImageError, match=rf"image{tall}\.jpg"):
        list(EvaluationLoader(open_dataset(root, "full", "train"), 16, 16, 4))
