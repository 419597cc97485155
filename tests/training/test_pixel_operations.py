"""Operations on pixels and places against Pillow, on whole numbers, within what Pillow rounds."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training import pixel_operations as pixels
from imagesprint.training.transforms import Grey, Jitter, Pad

SIZE = 24
RECIPE = Recipe(name="test", phases=(Phase((0, 1), (0.1, 0.1), "constant", 8, 8, SIZE),))


def pictures() -> NDArray[np.uint8]:
    """Noise over slow changes, dark, bright, with few values, and of one colour: uint8 [6, SIZE, SIZE, 3]."""
    generator = np.random.default_rng(0)
    slow = generator.integers(0, 256, (4, 5, 5, 3), np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in slow]
    mixed = np.stack(large) * 0.7 + generator.uniform(0, 76, (4, SIZE, SIZE, 3))
    mixed[1] = mixed[1] * 0.3 + 4
    mixed[2] = 250 - mixed[2] * 0.2
    mixed[3] = mixed[3] // 100 * 90
    few = generator.choice(np.array([3, 77], np.uint8), (1, SIZE, SIZE, 3))
    return np.concatenate([mixed.astype(np.uint8), few, np.full((1, SIZE, SIZE, 3), (9, 200, 31), np.uint8)])


PICTURES = pictures()


def planar(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).double().contiguous()


def by_pillow(change: Callable[[Image.Image], Image.Image], images: NDArray[np.uint8] = PICTURES) -> Tensor:
    return planar(np.stack([np.asarray(change(Image.fromarray(image)).convert("RGB")) for image in images]))


def each(value: float) -> Tensor:
    return torch.full((len(PICTURES), 1, 1, 1), value, dtype=torch.float64)


def assert_near(found: Tensor, expected: Tensor, most: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max().item() <= most


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (pixels.brightness, ImageEnhance.Brightness),
        (pixels.contrast, ImageEnhance.Contrast),
        (pixels.colour, ImageEnhance.Color),
        (pixels.sharpness, ImageEnhance.Sharpness),
    ],
)
@pytest.mark.parametrize("factor", [0.01, 0.4, 1.0, 1.7, 1.99])
def test_enhancers(ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[..., object], factor: float) -> None:
    expected = by_pillow(lambda image: theirs(image).enhance(factor))  # type: ignore[attr-defined]
    assert_near(ours(planar(PICTURES), each(factor)), expected, 0 if factor == 1 else 2)


def test_sharpness_leaves_an_image_without_a_middle() -> None:
    for size in (1, 2):
        images = planar(PICTURES[:, :size, :size].copy())
        assert torch.equal(pixels.sharpness(images, each(0.1)), images)
    smooth = by_pillow(lambda image: image.filter(ImageFilter.SMOOTH))
    assert_near(pixels.sharpness(planar(PICTURES), each(0)), smooth, 0.5 + 1e-9)


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_posterize(bits: int) -> None:
    expected = by_pillow(lambda image: ImageOps.posterize(image, bits))
    assert torch.equal(pixels.posterize(planar(PICTURES), each(2 ** (8 - bits))), expected)


@pytest.mark.parametrize("threshold", [0.0, 76.5, 77.0, 255.0])
def test_solarize(threshold: float) -> None:
    expected = by_pillow(lambda image: ImageOps.solarize(image, threshold))  # type: ignore[arg-type]
    assert torch.equal(pixels.solarize(planar(PICTURES), each(threshold)), expected)


def test_autocontrast_and_equalize() -> None:
    assert_near(pixels.autocontrast(planar(PICTURES)), by_pillow(ImageOps.autocontrast), 1)
    assert torch.equal(pixels.equalize(planar(PICTURES)), by_pillow(ImageOps.equalize))


def test_luminance_and_grey() -> None:
    grey = by_pillow(lambda image: image.convert("L"))
    assert_near(pixels.luminance(planar(PICTURES)).expand_as(grey), grey, 0.51)
    draws = torch.tensor([[0.1], [0.7], [0.3], [0.29], [0.9], [0.0]])
    found, _ = Grey(RECIPE, 0.3)(planar(PICTURES), torch.zeros(6, 1), draws)
    for row, draw in enumerate(draws):
        assert_near(found[row], (grey if draw < 0.3 else planar(PICTURES))[row], 0.51 if draw < 0.3 else 0)


@pytest.mark.parametrize("numbers", [(1, 0.4, 0, 0, 1, 0), (1, 0, -7.3, 0, 1, 0), (0.6, 0.8, -3, -0.8, 0.6, 11)])
def test_moved_is_an_affine_transform_of_the_image_on_a_ground(numbers: tuple[float, ...]) -> None:
    a, b, c, d, e, f = numbers
    ground, border = (124, 116, 104), 2 * SIZE

    def by_numbers(image: Image.Image) -> Image.Image:
        canvas = ImageOps.expand(image, border, ground)
        data = (a, b, c + border, d, e, f + border)
        affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return canvas.transform(image.size, affine, data, bilinear, fillcolor=ground)

    # Pillow's numbers are for pixels from the upper left edge, ours for the image from −1 to 1
    matrix = torch.tensor([[a, b, a + b - 1 + 2 * c / SIZE], [d, e, d + e - 1 + 2 * f / SIZE]], dtype=torch.float64)
    fill = torch.tensor(ground, dtype=torch.float64)[:, None, None]
    found = pixels.moved(planar(PICTURES), matrix.expand(len(PICTURES), 2, 3), fill)
    assert_near(found, by_pillow(by_numbers), 1 + 1e-9)  # Pillow cuts fractions off


@pytest.mark.parametrize("margin", [2, 30])  # 30: more than the image has
def test_pad_cuts_a_crop_out_of_the_mirrored_image(margin: int) -> None:
    draws = torch.tensor([[0.0, 0.9999], [0.5, 0.5], [0.3, 0.7], [0.9999, 0.0], [0.1, 0.2], [0.8, 0.6]])
    found, _ = Pad(RECIPE, margin)(planar(PICTURES), torch.zeros(6, 1), draws)
    expected = []
    for image, (down, across) in zip(PICTURES, draws.tolist(), strict=True):
        padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "reflect")
        top, left = int(down * (2 * margin + 1)), int(across * (2 * margin + 1))
        expected.append(padded[top : top + SIZE, left : left + SIZE])
    assert torch.equal(found, planar(np.stack(expected)))
    alone, _ = Pad(RECIPE, margin)(planar(PICTURES[:, :1, :1].copy()), torch.zeros(6, 1), draws)
    assert torch.equal(alone, planar(PICTURES[:, :1, :1].copy()))  # one pixel has no other to show


def test_jitter_is_brightness_contrast_and_saturation_and_cuts_off_at_the_end() -> None:
    middle = PICTURES // 4 + 90  # nothing that Pillow, which cuts off after each of them, would cut off
    draws = torch.from_numpy(np.random.default_rng(2).random((6, 3), np.float32))
    found, _ = Jitter(RECIPE, 0.3)(planar(middle), torch.zeros(6, 1), draws)
    for row, factors in enumerate((1 + 0.3 * (2 * draws.double() - 1)).tolist()):

        def enhanced(image: Image.Image, factors: list[float] = factors) -> Image.Image:
            image = ImageEnhance.Brightness(image).enhance(factors[0])
            image = ImageEnhance.Contrast(image).enhance(factors[1])
            return ImageEnhance.Color(image).enhance(factors[2])

        assert_near(found[row : row + 1], by_pillow(enhanced, middle[row : row + 1]), 3)
    wild, _ = Jitter(RECIPE, 1.0)(planar(PICTURES), torch.zeros(6, 1), 1 - draws / 8)
    assert (wild.min().item(), wild.max().item()) == (0, 255)
