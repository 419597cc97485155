import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagesprint.errors import RankError
from imagesprint.images.crops import evaluation_crops, evaluation_shapes
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.records.dataset import Dataset, open_dataset


@pytest.fixture
def dataset(root_path: Path) -> Dataset:
    return open_dataset(root_path, "full", "validation")  # 11 images


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_each_image_comes_once_whatever_the_ranks(dataset: Dataset, world_size: int, batch_size: int) -> None:
    batches: dict[int, list[int]] = {}
    for rank in range(world_size):
        for batch in EvaluationLoader(dataset, 16, 20, batch_size, rank, world_size, 2):
            assert batch.step % world_size == rank
            assert batch.images.shape == (batch_size, 16, 16, 3)
            assert batch.labels.tolist() == [
                sample_id % 2 if real else 0
                for sample_id, real in zip(batch.sample_ids.tolist(), batch.mask.tolist(), strict=True)
            ]
            batches[batch.step] = batch.sample_ids[batch.mask].tolist()
    assert [sample_id for number in sorted(batches) for sample_id in batches[number]] == list(range(11))


def test_some_images_alone_in_the_order_asked_for(dataset: Dataset) -> None:
    every = {
        int(sample_id): pixels.clone()
        for batch in EvaluationLoader(dataset, 16, 20, 4)
        for sample_id, pixels in zip(batch.sample_ids, batch.images, strict=True)
    }
    wanted = np.array([7, 2, 10, 0, 3])
    batches = 0
    for batch in EvaluationLoader(dataset, 16, 20, 3, sample_ids=wanted):
        expected = wanted[3 * batches :][:3]
        assert batch.sample_ids[batch.mask].tolist() == expected.tolist()
        assert all(batch.images[row].equal(every[sample_id]) for row, sample_id in enumerate(expected.tolist()))
        batches += 1
    assert batches == 2


def test_pixels_are_the_central_square_antialiased(dataset: Dataset) -> None:
    crops = evaluation_crops(dataset.sizes, 20, 16)
    for batch in EvaluationLoader(dataset, 16, 20, 4):
        for row, sample_id in enumerate(batch.sample_ids.tolist()):
            if sample_id < 0:
                continue
            image = Image.open(io.BytesIO(dataset.read(sample_id))).convert("RGB")
            image = image.crop(tuple(crops[sample_id].tolist())).resize((16, 16), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(batch.images[row], np.asarray(image), rtol=0, atol=1)  # rounded weights


@pytest.mark.parametrize("world_size", [1, 3])
def test_rectangles_come_by_their_shape_each_image_once(dataset: Dataset, world_size: int) -> None:
    crops = evaluation_crops(dataset.sizes, 20, 16, "rectangle")
    shapes = evaluation_shapes(dataset.sizes, 16, "rectangle")
    seen: dict[int, list[int]] = {}
    for rank in range(world_size):
        loader = EvaluationLoader(dataset, 16, 20, 2, rank, world_size, 2, shape="rectangle")
        for number, batch in zip(loader.numbers, loader, strict=True):
            assert batch.step == number
            assert batch.mask.all()
            assert batch.labels.tolist() == [sample_id % 2 for sample_id in batch.sample_ids.tolist()]
            for pixels, sample_id in zip(batch.images, batch.sample_ids.tolist(), strict=True):
                assert list(pixels.shape) == [*shapes[sample_id], 3]
                image = Image.open(io.BytesIO(dataset.read(sample_id))).convert("RGB").crop(tuple(crops[sample_id]))
                expected = image.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
                np.testing.assert_allclose(pixels, np.asarray(expected), rtol=0, atol=1)
            seen[number] = batch.sample_ids.tolist()
    assert len(np.unique(shapes, axis=0)) > 2
    in_order = np.lexsort((shapes[:, 1], shapes[:, 0])).tolist()
    assert [sample_id for number in sorted(seen) for sample_id in seen[number]] == in_order


def test_padding_is_blank_and_masked(dataset: Dataset) -> None:
    *_, last = EvaluationLoader(dataset, 16, 20, 4)
    assert last.mask.tolist() == [True, True, True, False]
    assert not last.images[3].any()
    assert (last.labels[3].item(), last.sample_ids[3].item()) == (0, -1)
    assert last.images.dtype == torch.uint8


def test_a_rank_without_a_batch_and_one_that_is_none(dataset: Dataset, own_threads: Callable[[], list[str]]) -> None:
    assert list(EvaluationLoader(dataset, 16, 20, 16, rank=1, world_size=2)) == []
    with pytest.raises(RankError):
        EvaluationLoader(dataset, 16, 20, 16, rank=2, world_size=2)
    for _ in EvaluationLoader(dataset, 16, 20, 4):
        break
    assert not own_threads()
