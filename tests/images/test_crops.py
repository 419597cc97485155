import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imagesprint.errors import UsageError
from imagesprint.images.crops import CropSpec, _exp, _log, draw_training_crops, evaluation_crops, evaluation_shapes

SEED = 11
CROP = CropSpec()
BBOX = CropSpec("distorted_bbox", min_area=0.05)

Boxes = list[NDArray[np.float32]]


def draw(spec: CropSpec, height: int, width: int, n: int = 20_000, epoch: int = 0) -> NDArray[np.int64]:
    crops, _ = draw_training_crops(spec, SEED, np.tile([height, width], (n, 1)), None, epoch, np.arange(n))
    assert crops.dtype == np.int32
    return crops.astype(np.int64)


def assert_inside(crops: NDArray[np.int64], height: int, width: int) -> None:
    left, top, right, bottom = crops.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    assert (right > left).all()
    assert (bottom > top).all()


def random_sizes(n: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(1, 700, (n, 2))


def random_boxes(n: int) -> Boxes:
    rng = np.random.default_rng(2)
    corners = [np.sort(rng.random((int(rng.integers(0, 4)), 2, 2)), 1).reshape(-1, 4) for _ in range(n)]
    return [part.astype(np.float32) for part in corners]


def test_random_resized_has_torchvisions_distribution() -> None:
    left, top, right, bottom = draw(CROP, 600, 600).T
    width, height = right - left, bottom - top
    area, aspect = width * height / 600**2, np.log(width / height)
    assert area.min() > 0.078
    assert area.max() <= 1
    assert np.abs(aspect).max() < math.log(4 / 3) + 0.02
    # Up to an area of 3/4 each aspect fits into a square, so that there no proposal is refused: uniform, whatever
    # the few refusals above make of the share.
    low = area[area < 0.75]
    assert np.abs(np.quantile(low, (0.25, 0.5, 0.75)) - (0.08 + 0.67 * np.array([0.25, 0.5, 0.75]))).max() < 0.01
    small = aspect[area < 0.7]
    assert np.abs(np.quantile(small, (0.25, 0.5, 0.75)) - math.log(4 / 3) * np.array([-0.5, 0, 0.5])).max() < 0.01
    room = 600 - width > 50
    assert abs((left / (600 - width).clip(1))[room].mean() - 0.5) < 0.01
    assert abs((top / (600 - height).clip(1))[600 - height > 50].mean() - 0.5) < 0.01


def test_random_resized_follows_min_area_and_aspect() -> None:
    left, top, right, bottom = draw(replace(CROP, aspect=(1.0, 1.0), min_area=0.5), 500, 500).T
    np.testing.assert_array_equal(right - left, bottom - top)
    assert ((right - left) ** 2).min() >= 0.497 * 500**2
    assert (draw(replace(CROP, aspect=(1.0, 1.0), min_area=1.0), 500, 500, 50) == [0, 0, 500, 500]).all()


@pytest.mark.parametrize(
    ("size", "fallback"),
    [((1000, 10), [0, 493, 10, 506]), ((10, 1000), [493, 0, 506, 10]), ((1, 4000), [1999, 0, 2000, 1])],
)
def test_extreme_aspects_fall_back_to_the_centre(size: tuple[int, int], fallback: list[int]) -> None:
    crops = draw(replace(CROP, min_area=0.5), *size, 1000)
    assert (crops == fallback).all()


SMALL = replace(CROP, min_area=0.05)


@pytest.mark.parametrize("spec", [SMALL, BBOX, replace(SMALL, aspect=(3.0, 9.0)), replace(BBOX, aspect=(3.0, 9.0))])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 500), (3, 2), (17, 5), (375, 500), (3000, 4000)])
def test_crops_stay_inside_the_image(spec: CropSpec, size: tuple[int, int]) -> None:
    assert_inside(draw(spec, *size, 500), *size)


def test_a_single_pixel_is_its_own_crop() -> None:
    for spec in (CROP, replace(BBOX, min_area=0.08), CropSpec("center")):
        assert (draw(spec, 1, 1, 100) == [0, 0, 1, 1]).all()
    assert evaluation_crops(np.array([[1, 1]]), 256, 224).tolist() == [[0, 0, 1, 1]]


def test_distorted_bbox_covers_enough_of_some_object() -> None:
    n = 3000
    sizes, boxes = random_sizes(n), random_boxes(n)
    crops, _ = draw_training_crops(replace(BBOX, min_object_covered=0.4), SEED, sizes, boxes, 0, np.arange(n))
    whole_images = 0
    for (height, width), objects, (left, top, right, bottom) in zip(sizes, boxes, crops.tolist(), strict=True):
        whole_images += (left, top, right, bottom) == (0, 0, width, height)
        scaled = objects * np.array([height, width, height, width], np.float32)
        pixels = [part.astype(int) for part in scaled] or [np.array([0, 0, height, width])]
        assert (left, top, right, bottom) == (0, 0, width, height) or any(
            max(0, min(right, x1) - max(left, x0)) * max(0, min(bottom, y1) - max(top, y0))
            >= 0.4 * (y1 - y0) * (x1 - x0)
            > 0
            for y0, x0, y1, x1 in pixels
        )
        # the area asked for
        assert (right - left) * (bottom - top) >= 0.05 * height * width
    assert 0 < whole_images < n / 5  # images too long and thin for the aspects allowed


def test_distorted_bbox_distribution() -> None:
    left, top, right, bottom = draw(BBOX, 400, 400).T
    width, height = right - left, bottom - top
    aspect = width / height
    assert abs(aspect.mean() - (3 / 4 + 4 / 3) / 2) < 0.06  # uniform but for crops that cover too little, and rounding
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
    assert (width * height).min() >= 0.05 * 400**2
    assert (right < 400)[width < 400].all()  # the kernel's offset is below image − crop
    assert (bottom < 400)[height < 400].all()


def test_distorted_bbox_takes_the_whole_image_after_a_hundred_failures() -> None:
    edge = [np.array([[0.0, 0.998, 1.0, 1.0]], np.float32)] * 50  # the last column: too far right for any crop
    no_pixels = [np.array([[0.5, 0.5, 0.5, 0.5]], np.float32)] * 50
    for boxes in (edge, no_pixels):
        crops, _ = draw_training_crops(BBOX, SEED, np.tile([200, 300], (50, 1)), boxes, 0, np.arange(50))
        assert (crops == [0, 0, 300, 200]).all()


def test_no_objects_is_the_same_as_none_given() -> None:
    sizes, ids, empty = random_sizes(100), np.arange(100), np.empty((0, 4), np.float32)
    np.testing.assert_array_equal(
        draw_training_crops(BBOX, SEED, sizes, [empty] * 100, 3, ids)[0],
        draw_training_crops(BBOX, SEED, sizes, None, 3, ids)[0],
    )


@pytest.mark.parametrize("spec", [SMALL, BBOX, CropSpec("center")])
def test_draws_do_not_depend_on_the_batch(spec: CropSpec) -> None:
    n = 300
    sizes, boxes, ids = random_sizes(n), random_boxes(n), np.random.default_rng(3).permutation(n) * 1000
    crops, flips = draw_training_crops(spec, SEED, sizes, boxes, 4, ids)
    for start, end in [(0, 1), (1, 8), (8, 100), (100, 300)]:
        part = slice(start, end)
        some, mirrored = draw_training_crops(spec, SEED, sizes[part], boxes[part], 4, ids[part])
        np.testing.assert_array_equal(some, crops[part])
        np.testing.assert_array_equal(mirrored, flips[part])


def test_center_takes_the_whole_shorter_side() -> None:
    sizes = np.array([[10, 20], [21, 10], [8, 8]])
    crops, _ = draw_training_crops(CropSpec("center"), SEED, sizes, None, 0, np.arange(3))
    assert crops.tolist() == [[5, 0, 15, 10], [0, 5, 10, 15], [0, 0, 8, 8]]


def test_flips_are_even_and_can_be_off() -> None:
    sizes, ids = np.tile([9, 9], (20_000, 1)), np.arange(20_000)
    _, flips = draw_training_crops(CROP, SEED, sizes, None, 0, ids)
    _, other_epoch = draw_training_crops(CROP, SEED, sizes, None, 1, ids)
    assert flips.dtype == np.bool_
    assert abs(flips.mean() - 0.5) < 0.015
    assert abs((flips == other_epoch).mean() - 0.5) < 0.015
    assert not draw_training_crops(replace(CROP, flip=False), SEED, sizes, None, 0, ids)[1].any()


def test_evaluation_crops() -> None:
    sizes = np.array([[256, 256], [256, 400], [512, 256], [375, 500], [10, 10]])
    # 375 · 224 / 256 = 328.125; 10 · 224 / 256 = 8.75
    assert evaluation_crops(sizes, 256, 224).tolist() == [
        [16, 16, 240, 240],
        [88, 16, 312, 240],
        [16, 144, 240, 368],
        [86, 23, 414, 351],
        [0, 0, 9, 9],
    ]
    # a crop larger than the resized image: as much as there is
    assert evaluation_crops(np.array([[100, 120]]), 256, 288).tolist() == [[10, 0, 110, 100]]


def test_rectangles_have_the_images_ratio_to_the_nearest_sixth() -> None:
    sizes = np.array([[300, 400], [480, 320], [160, 213], [213, 160], [100, 108], [100, 109], [90, 900], [7, 7]])
    # 4:3 and 3:2 exactly, and where rounding took a pixel of them; 13 twelfths are the first that are rounded up
    assert evaluation_shapes(sizes, 120, "rectangle").tolist() == [
        [120, 160], [180, 120], [120, 160], [160, 120], [120, 120], [120, 140], [120, 240], [120, 120],
    ]  # fmt: skip
    assert evaluation_shapes(sizes, 224, "rectangle")[:2].tolist() == [[224, 299], [336, 224]]
    every = np.stack(np.meshgrid(np.arange(1, 200), np.arange(1, 200)), -1).reshape(-1, 2)
    assert len(np.unique(evaluation_shapes(every, 224, "rectangle"), axis=0)) == 13
    assert (evaluation_shapes(every, 224) == 224).all()


def test_rectangles_are_cut_out_of_the_centre_at_the_squares_scale() -> None:
    sizes = np.array([[300, 400], [300, 1000], [480, 320], [100, 109], [1, 5]])
    crops = evaluation_crops(sizes, 150, 120, "rectangle")
    assert crops.tolist() == [
        [40, 30, 360, 270], [260, 30, 740, 270], [32, 48, 288, 432], [8, 10, 101, 90], [1, 0, 3, 1],
    ]  # fmt: skip
    squares = evaluation_crops(sizes, 150, 120)
    assert (crops[:, :2] <= squares[:, :2]).all()
    assert (crops[:, 2:] >= squares[:, 2:]).all()
    # Nothing is left around it, and 109 columns are fewer than 7/6 of 100 rows: as large as the image has that shape.
    assert evaluation_crops(sizes[3:4], 120, 120, "rectangle").tolist() == [[0, 3, 109, 96]]


def test_exp_and_log_are_accurate() -> None:
    x = np.linspace(-5, 5, 1001)
    np.testing.assert_allclose(_exp(x), np.exp(x), rtol=2e-11)
    for value in (1e-9, 0.1, 0.5, 0.75, 1.0, 4 / 3, 2.0, 1e6):
        assert _log(value) == pytest.approx(math.log(value), rel=1e-15, abs=1e-15)


FROZEN = {
    "random_resized": "a428b0636cfc69afe6fb87fae549310167880b47d0e46bd64feb5dcde8753fb8",
    "distorted_bbox": "f38b73920841ede21b5e24c181e0844e4935389d5dabf2f547504bf11f0ff80d",
    "center": "5c411c24c94f0d6a42ae407bb607f8d08493c40d34aef54a5cf27e40f07304f0",
}


@pytest.mark.parametrize("crop", FROZEN)
def test_the_draws_never_change_unnoticed(crop: str) -> None:
    n = 5000
    spec = CropSpec(crop, min_area=0.05)
    crops, flips = draw_training_crops(spec, 123456789, random_sizes(n), random_boxes(n), 17, np.arange(n) * 257)
    digest = hashlib.sha256(crops.astype("<i4").tobytes() + flips.tobytes()).hexdigest()
    assert digest == FROZEN[crop]


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "middle"), ("min_area", 0.0), ("min_area", 1.1), ("aspect", (2.0, 1.0)), ("min_object_covered", -0.1)],
)
def test_what_no_crop_can_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"CropSpec: {field}=") as caught:
        replace(CROP, **{field: value})
    assert caught.value.hint.startswith("it must be ")
