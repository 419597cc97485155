"""Crop geometry: which box of each image is cut out, and whether it is mirrored. Vectorised over the batch.

Boxes are int32[N, 4] as left, top, right, bottom in pixels of the stored image, half-open like Pillow's `crop`; sizes
are int[N, 2] as height, width. Every sample draws for itself (see `draws`), so a batch's composition cannot matter.
Only + − × ÷, square roots and integers are used: IEEE 754 fixes their results, while exp and log differ in the last bit
between numpy, libm and processors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import UsageError
from imagesprint.images.draws import CROP, FLIP, below, sample_bits, uniform
from imagesprint.recipes.recipe import CROPS
from imagesprint.recipes.validation import ASPECTS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint32]
Proposal = tuple[Ints, Ints, Ints, Ints, NDArray[np.bool_]]  # left, top, width, height, acceptable; [attempts, samples]

RANDOM_RESIZED_ATTEMPTS: Final = 10  # torchvision's RandomResizedCrop.get_params
DISTORTED_BBOX_ATTEMPTS: Final = 100  # max_attempts in the Inception preprocessing of the TensorFlow models
SIXTHS: Final = 6  # of a rectangle's shorter side, in which its longer one is: 4:3 and 3:2, the cameras', are whole
LONGEST: Final = 2  # shorter sides that a rectangle's longer one has at most: of a panorama the middle is seen


@dataclass(frozen=True)
class CropSpec:
    """How training images are cut out, mirrored and resized.

    `kind` is one of "random_resized" (torchvision's), "distorted_bbox" (TensorFlow's, around an image's objects) and
    "center" (the whole shorter side). Of the image a crop covers `min_area` at least; `aspect` is its range of width
    over height. `min_object_covered`, the least share of an object, concerns distorted_bbox alone. With `flip` every
    second crop is mirrored, at random; `antialias` resizes as `images.decoding` says. Raises UsageError for what is
    out of range.
    """

    kind: str = "random_resized"
    min_area: float = 0.08
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    min_object_covered: float = 0.1
    flip: bool = True
    antialias: bool = True

    def __post_init__(self) -> None:
        (least, most), (low, high) = ASPECTS, self.aspect
        rules = (
            ("kind", f"one of {', '.join(CROPS)}", self.kind in CROPS),
            ("min_area", "above 0 and at most 1", 0 < self.min_area <= 1),
            ("aspect", f"{least:g} ≤ low ≤ high ≤ {most:g}, width over height", least <= low <= high <= most),
            ("min_object_covered", "in 0..1", 0 <= self.min_object_covered <= 1),
        )
        check_fields(self, rules)


def check_fields(spec: object, rules: Sequence[tuple[str, str, bool]]) -> None:
    """Raise UsageError for the first of `rules`, of a field, what it must be, and whether it is, that is not kept."""
    for name, rule, kept in rules:
        if not kept:
            value = getattr(spec, name)
            raise UsageError(f"{type(spec).__name__}: {name}={value!r} is out of range", f"it must be {rule}")


def draw_training_crops(
    spec: CropSpec,
    seed: int,
    sizes: NDArray[np.integer],
    boxes: Sequence[NDArray[np.float32]] | None,
    epochs: NDArray[np.int64] | int,
    sample_ids: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The crops, int32[N, 4], and flips, bool[N], of samples `sample_ids`, int64[N], in `epochs`: one for all, or
    int64[N].

    `boxes` holds each image's objects, float32[K, 4] as ymin, xmin, ymax, xmax in 0..1; only the crop
    `distorted_bbox` looks at them, and None says that no image has any.
    """
    height, width = _height_width(sizes)
    epochs = np.broadcast_to(epochs, sample_ids.shape)
    flips = np.zeros(len(sample_ids), np.bool_)
    if spec.flip:
        flips = sample_bits(seed, epochs, sample_ids, 0, FLIP)[0] >= np.uint32(1 << 31)
    if spec.kind == "center":
        side = np.minimum(height, width)
        return _central(height, width, side, side).astype(np.int32), flips
    if spec.kind == "random_resized":
        propose = _random_resized(spec, height, width)
        fallback = _central_within_aspect(spec.aspect, height, width)
        attempts = RANDOM_RESIZED_ATTEMPTS
    else:
        propose = _distorted_bbox(spec, height, width, _object_pixels(boxes, height, width))
        fallback = np.stack([np.zeros_like(width), np.zeros_like(height), width, height], 1)
        attempts = DISTORTED_BBOX_ATTEMPTS
    return _first_acceptable(propose, attempts, fallback, seed, epochs, sample_ids), flips


def evaluation_shapes(sizes: NDArray[np.integer], eval_image_size: int, eval_shape: str = "square") -> Ints:
    """Height and width, int64[N, 2], that images of `sizes` have in evaluation.

    "square": `eval_image_size` each. "rectangle": the shorter side has that, and the longer one is to it as in the
    image itself, to the nearest of SIXTHS and at most LONGEST times as long. So the shape follows from the image alone,
    not from the images beside it, and there are few: 13. fast.ai's rectangles (DAWNBench 2018, `CropArTfm` in
    github.com/cybertronai/imagenet18_old) have the mean ratio of the batch that an image happens to be in.
    """
    height, width = _height_width(sizes)
    shapes = np.full((len(height), 2), eval_image_size, np.int64)
    if eval_shape == "rectangle":
        short, long = np.minimum(height, width), np.maximum(height, width)
        sixths = np.minimum((2 * SIXTHS * long + short) // (2 * short), SIXTHS * LONGEST)
        longer = (2 * eval_image_size * sixths + SIXTHS) // (2 * SIXTHS)
        shapes[:, 0] = np.where(height > width, longer, eval_image_size)
        shapes[:, 1] = np.where(width > height, longer, eval_image_size)
    return shapes


def evaluation_crops(
    sizes: NDArray[np.integer], eval_resize: int, eval_image_size: int, eval_shape: str = "square"
) -> NDArray[np.int32]:
    """The central boxes, int32[N, 4], that evaluation resizes to `evaluation_shapes`.

    A square's side is the shorter side times eval_image_size / eval_resize (rounded, at most the shorter side): cutting
    it out and resizing once equals "shorter side to eval_resize, then the centre square" within rounding. A rectangle
    is at the same scale or, where its ratio was rounded up and the image is not that long, as large as there is room.
    """
    height, width = _height_width(sizes)
    shapes = evaluation_shapes(sizes, eval_image_size, eval_shape)
    short, long, longer = np.minimum(height, width), np.maximum(height, width), shapes.max(1)
    resize = max(eval_resize, eval_image_size)
    fits = short * longer <= long * resize
    pixels, of = np.where(fits, short, long), np.where(fits, resize, longer)  # of the image for each `of` that are seen
    box_height, box_width = ((2 * side * pixels + of) // (2 * of) for side in shapes.T)
    box_height, box_width = np.clip(box_height, 1, height), np.clip(box_width, 1, width)
    return _central(height, width, box_height, box_width).astype(np.int32)


def _height_width(sizes: NDArray[np.integer]) -> tuple[Ints, Ints]:
    wide = np.asarray(sizes, np.int64)
    return wide[:, 0], wide[:, 1]


def _first_acceptable(
    propose: Callable[[Bits, Ints], Proposal],
    attempts: int,
    fallback: Ints,
    seed: int,
    epochs: Ints,
    sample_ids: Ints,
) -> NDArray[np.int32]:
    """Each sample's first acceptable proposal, else its row of `fallback`.

    Attempts go in rounds of 1, 9, 90, …: most samples are done after the first, and the rest take few numpy calls.
    """
    crops = fallback.astype(np.int32)
    pending = np.arange(len(sample_ids))
    done = 0
    while done < attempts and len(pending):
        count = min(max(1, 9 * done), attempts - done)
        ids, of_epochs = np.tile(sample_ids[pending], count), np.tile(epochs[pending], count)
        blocks = np.repeat(np.arange(done, done + count), len(pending))
        bits = sample_bits(seed, of_epochs, ids, blocks, CROP).reshape(4, count, len(pending))
        left, top, width, height, acceptable = propose(bits, pending)
        first = acceptable.argmax(0)
        hit = np.flatnonzero(acceptable.any(0))
        chosen = (first[hit], hit)
        crops[pending[hit], 0] = left[chosen]
        crops[pending[hit], 1] = top[chosen]
        crops[pending[hit], 2] = (left + width)[chosen]
        crops[pending[hit], 3] = (top + height)[chosen]
        pending = np.delete(pending, hit)
        done += count
    return crops


def _random_resized(spec: CropSpec, height: Ints, width: Ints) -> Callable[[Bits, Ints], Proposal]:
    """torchvision's RandomResizedCrop: area uniform in min_area..1 of the image, aspect (w / h) log-uniform."""
    low, high = map(_log, spec.aspect)

    def propose(bits: Bits, rows: Ints) -> Proposal:
        h, w = height[rows], width[rows]
        area = (h * w) * (spec.min_area + uniform(bits[0]) * (1.0 - spec.min_area))
        ratio = _exp(low + uniform(bits[1]) * (high - low))
        crop_w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        crop_h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        acceptable = (crop_w > 0) & (crop_w <= w) & (crop_h > 0) & (crop_h <= h)
        return below(bits[2], w - crop_w + 1), below(bits[3], h - crop_h + 1), crop_w, crop_h, acceptable

    return propose


def _central_within_aspect(aspect: tuple[float, float], height: Ints, width: Ints) -> Ints:
    """torchvision's fallback: the image, cut around its centre to the nearest allowed aspect."""
    crop_w = np.where(width > height * aspect[1], np.rint(height * aspect[1]).astype(np.int64), width)
    crop_h = np.where(width < height * aspect[0], np.rint(width / aspect[0]).astype(np.int64), height)
    return _central(height, width, np.clip(crop_h, 1, height), np.clip(crop_w, 1, width))


def _distorted_bbox(spec: CropSpec, height: Ints, width: Ints, objects: Ints) -> Callable[[Bits, Ints], Proposal]:
    """TensorFlow's SampleDistortedBoundingBox: aspect uniform, height uniform among those the area allows.

    As there, an offset is drawn below (image − crop), so that the crop never touches the far edge unless it fills
    the image in that direction, and a crop counts only if it covers min_object_covered of at least one object.
    """
    low, high = spec.aspect

    def propose(bits: Bits, rows: Ints) -> Proposal:
        h, w = height[rows], width[rows]
        ratio = low + uniform(bits[0]) * (high - low)
        largest = (h * w).astype(np.float64)
        smallest = largest * spec.min_area
        highest = np.rint(np.sqrt(largest / ratio))
        # The greatest height whose rounded width still fits; 1e-7 is the kernel's guard, the last step its repair.
        highest = np.where(np.rint(highest * ratio) > w, np.floor((w + 0.5 - 1e-7) / ratio), highest)
        highest -= np.rint(highest * ratio) > w
        highest = np.minimum(highest, h)
        lowest = np.minimum(np.rint(np.sqrt(smallest / ratio)), highest)
        crop_h = lowest + below(bits[1], (highest - lowest).astype(np.int64) + 1)
        crop_h += np.rint(crop_h * ratio) * crop_h < smallest
        crop_h -= np.rint(crop_h * ratio) * crop_h > largest
        crop_w = np.rint(crop_h * ratio)
        area = crop_w * crop_h
        acceptable = (
            (area >= smallest) & (area <= largest) & (crop_w <= w) & (crop_h <= h) & (crop_w > 0) & (crop_h > 0)
        )
        columns, lines = crop_w.astype(np.int64), crop_h.astype(np.int64)
        top, left = below(bits[2], h - lines), below(bits[3], w - columns)
        acceptable &= _covers(left, top, columns, lines, objects[rows], spec.min_object_covered)
        return left, top, columns, lines, acceptable

    return propose


def _object_pixels(boxes: Sequence[NDArray[np.float32]] | None, height: Ints, width: Ints) -> Ints:
    """The objects in whole pixels, int64[N, K, 4] as left, top, right, bottom, padded by empty ones.

    An image without any is its own object.
    """
    number = (
        np.fromiter(map(len, boxes), np.int64, len(boxes)) if boxes is not None else np.zeros(len(height), np.int64)
    )
    most = max(1, int(number.max(initial=0)))
    objects = np.zeros((len(height), most, 4), np.int64)
    if boxes is not None and number.any():
        relative = np.zeros((len(height), most, 4), np.float32)
        relative[np.arange(most) < number[:, None]] = np.concatenate([part.reshape(-1, 4) for part in boxes])
        scale = np.stack([width, height, width, height], 1).astype(np.float32)
        objects[:] = relative[:, :, [1, 0, 3, 2]] * scale[:, None]
    objects[number == 0, 0, 2] = width[number == 0]
    objects[number == 0, 0, 3] = height[number == 0]
    return objects


def _covers(left: Ints, top: Ints, width: Ints, height: Ints, objects: Ints, share: float) -> NDArray[np.bool_]:
    """Whether each crop, [attempts, samples], holds at least `share` of one of its sample's objects."""
    x0, y0, x1, y1 = np.moveaxis(objects, 2, 0)
    across = np.minimum((left + width)[..., None], x1) - np.maximum(left[..., None], x0)
    down = np.minimum((top + height)[..., None], y1) - np.maximum(top[..., None], y0)
    area = (x1 - x0) * (y1 - y0)
    inside = np.maximum(across, 0) * np.maximum(down, 0)
    covered: NDArray[np.bool_] = ((area > 0) & (inside >= share * area)).any(-1)
    return covered


def _central(height: Ints, width: Ints, box_height: Ints, box_width: Ints) -> Ints:
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return np.stack([left, top, left + box_width, top + box_height], 1)


_LOG_2: Final = 0.6931471805599453


def _log(x: float) -> float:
    """Natural logarithm by the area-tangent series, to about 1e-16: x = m·2ᵉ, ln m = 2·(z + z³/3 + z⁵/5 + …)."""
    mantissa, exponent = math.frexp(x)
    z = (mantissa - 1.0) / (mantissa + 1.0)  # in [−1/3, 0)
    total, power = 0.0, z
    for k in range(1, 36, 2):  # the next term is below 3⁻³⁷
        total += power / k
        power *= z * z
    return 2.0 * total + exponent * _LOG_2


def _exp(x: Floats) -> Floats:
    """exp(x) to about 1e-11 for |x| ≤ 5: the [3/3] Padé approximant at x / 64, squared six times."""
    y = x * 2.0**-6
    square = y * y
    even, odd = 120.0 + 12.0 * square, y * (60.0 + square)
    result = (even + odd) / (even - odd)
    for _ in range(6):
        result = result * result
    return result
