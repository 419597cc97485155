"""The crops of the recipe `classic` against TensorFlow's own sample_distorted_bounding_box, in distribution."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from imagesprint.images.crops import DISTORTED_BBOX_ATTEMPTS, draw_training_crops
from imagesprint.loading.sampling import batch_specs
from imagesprint.recipes.library import load_recipe

tf: Any = pytest.importorskip("tensorflow", reason="`make interop` installs TensorFlow and runs these tests")

Crops = NDArray[np.int64]  # [N, 4] as left, top, right, bottom

RECIPE = load_recipe("classic")
CROP = batch_specs(RECIPE)[0].crop
DRAWS = 10_000
# Two samples of one distribution come to a smaller p once in a thousand times; the seeds are fixed.
SMALLEST_P = 1e-3

# Height and width of an image, and its boxes as ymin, xmin, ymax, xmax.
CASES: dict[str, tuple[tuple[int, int], list[list[float]]]] = {
    "no box": ((375, 500), []),
    "tiny": ((375, 500), [[0.4, 0.7, 0.43, 0.73]]),
    "large": ((500, 333), [[0.02, 0.05, 0.98, 0.97]]),
    "several": ((333, 500), [[0.1, 0.1, 0.3, 0.2], [0.5, 0.6, 0.9, 0.95], [0.0, 0.8, 0.2, 1.0]]),
    "corner": ((480, 640), [[0.9, 0.9, 1.0, 1.0]]),
    "wide image": ((100, 600), [[0.2, 0.3, 0.7, 0.5]]),
    "tall box": ((640, 480), [[0.0, 0.48, 1.0, 0.52]]),
}


def draw_with_tensorflow(size: tuple[int, int], boxes: NDArray[np.float32]) -> Crops:
    def draw(_: Any) -> Any:
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            [*size, 3],
            boxes[None],
            seed=17,
            min_object_covered=CROP.min_object_covered,
            aspect_ratio_range=CROP.aspect,
            area_range=(CROP.min_area, 1.0),
            max_attempts=DISTORTED_BBOX_ATTEMPTS,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], 0)

    tf.random.set_seed(3)
    draws = next(iter(tf.data.Dataset.range(DRAWS).map(draw).batch(DRAWS))).numpy().astype(np.int64)
    top, left, height, width = draws.T
    return np.stack([left, top, left + width, top + height], 1)


def covered(crops: Crops, size: tuple[int, int], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """The greatest share of a box, in whole pixels, that each crop has; of the whole image where there is none."""
    scale = np.array([*size, *size], np.float32)
    shares = [np.zeros(len(crops))]
    for y0, x0, y1, x1 in (boxes * scale).astype(np.int64).tolist() or [[0, 0, *size]]:
        across = np.minimum(crops[:, 2], x1) - np.maximum(crops[:, 0], x0)
        down = np.minimum(crops[:, 3], y1) - np.maximum(crops[:, 1], y0)
        shares.append(np.maximum(across, 0) * np.maximum(down, 0) / ((x1 - x0) * (y1 - y0)))
    greatest: NDArray[np.float64] = np.max(shares, 0)
    return greatest


def describe(
    crops: Crops, size: tuple[int, int], boxes: NDArray[np.float32]
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    left, top, right, bottom = crops.T
    return {
        "area": (right - left) * (bottom - top),
        "aspect": (right - left) / (bottom - top),
        "overlap": covered(crops, size, boxes),
        "left": left,
        "top": top,
    }


@pytest.mark.parametrize("case", CASES)
def test_crops_have_tensorflows_distribution(case: str) -> None:
    size, given = CASES[case]
    boxes = np.array(given, np.float32).reshape(-1, 4)
    theirs = describe(draw_with_tensorflow(size, boxes), size, boxes)
    sizes, ids = np.tile(size, (DRAWS, 1)), np.arange(DRAWS)
    drawn, _ = draw_training_crops(CROP, RECIPE.seed, sizes, [boxes] * DRAWS, 0, ids)
    for what, value in describe(drawn.astype(np.int64), size, boxes).items():
        found = ks_2samp(theirs[what], value)
        assert found.pvalue > SMALLEST_P, f"{what}: D = {found.statistic:.4f}, p = {found.pvalue:.2g}"
