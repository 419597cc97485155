"""TrivialAugment: which operation each image gets, at which strength, against Pillow."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.trivial_augment import LEVELS, OPERATIONS, TrivialAugment

SIZE = 24
GROUND = (124, 116, 104)
RECIPE = Recipe(name="test", mean=GROUND, phases=(Phase((0, 1), (0.1, 0.1), "constant", 8, 8, SIZE),))

# By the paper's greatest strengths; m is the strength in 0..1 and s the same with its sign.
BY_PILLOW: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "shear x": lambda image, _, s: affine(image, (1, 0.99 * s, 0, 0, 1, 0)),
    "shear y": lambda image, _, s: affine(image, (1, 0, 0, 0.99 * s, 1, 0)),
    "translate x": lambda image, _, s: affine(image, (1, 0, 32 * s, 0, 1, 0)),
    "translate y": lambda image, _, s: affine(image, (1, 0, 0, 0, 1, 32 * s)),
    "rotate": lambda image, _, s: on_ground(image).rotate(135 * s, Image.Resampling.BILINEAR, fillcolor=GROUND),
    "identity": lambda image, *_: image,
    "brightness": lambda image, _, s: ImageEnhance.Brightness(image).enhance(1 + 0.99 * s),
    "colour": lambda image, _, s: ImageEnhance.Color(image).enhance(1 + 0.99 * s),
    "contrast": lambda image, _, s: ImageEnhance.Contrast(image).enhance(1 + 0.99 * s),
    "sharpness": lambda image, _, s: ImageEnhance.Sharpness(image).enhance(1 + 0.99 * s),
    "posterize": lambda image, m, _: ImageOps.posterize(image, 8 - round(6 * m)),
    "solarize": lambda image, m, _: ImageOps.solarize(image, 255 * (1 - m)),  # type: ignore[arg-type]
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
}


def on_ground(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, SIZE, GROUND)


def affine(image: Image.Image, data: tuple[float, ...]) -> Image.Image:
    a, b, c, d, e, f = data
    on_canvas, bilinear = (a, b, c + SIZE, d, e, f + SIZE), Image.Resampling.BILINEAR
    return on_ground(image).transform((SIZE, SIZE), Image.Transform.AFFINE, on_canvas, bilinear, fillcolor=GROUND)


def middle(image: Image.Image) -> Image.Image:
    edge = (image.width - SIZE) // 2
    return image.crop((edge, edge, edge + SIZE, edge + SIZE))


def planar(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).double().contiguous()


def test_each_image_gets_its_operation_at_its_strength_and_every_one_in_turn() -> None:
    count = 17  # not a multiple of the operations: some slots stay empty
    generator = np.random.default_rng(0)
    few = generator.integers(0, 256, (count, 4, 4, 3), np.uint8)  # enlarged by Pillow: slow changes, as photos have
    given = np.stack([np.asarray(Image.fromarray(image).resize((SIZE, SIZE))) for image in few])
    targets = torch.eye(3, dtype=torch.float64)[torch.arange(count) % 3]
    transform = TrivialAugment(RECIPE).double()
    met: Counter[tuple[int, str]] = Counter()
    for first in range(28):
        draws = generator.random((count, 2), np.float32)
        draws[0, 0] = (first + 0.5) / 28
        images, same = transform(planar(given), targets, torch.from_numpy(draws))
        assert same is targets
        for row, (image, draw) in enumerate(zip(given, draws[:, 1], strict=True)):
            name = OPERATIONS[(row + first) % 28 % 14]
            level = int(draw * 2 * LEVELS)
            strength = level % LEVELS / (LEVELS - 1)
            changed = BY_PILLOW[name](Image.fromarray(image), strength, strength if level < LEVELS else -strength)
            error = (images[row] - planar(np.array(middle(changed))[None])[0]).abs().max().item()
            assert error <= 2, (name, level, error)
            met[row, name] += 1
    assert set(met.values()) == {2}  # each image each operation equally often
    assert len(met) == count * len(OPERATIONS)


def test_what_an_image_gets_does_not_depend_on_the_others_but_for_the_first_ones_draw() -> None:
    generator = np.random.default_rng(1)
    draws = torch.from_numpy(generator.random((14, 2), np.float32))
    images = torch.from_numpy(generator.uniform(0, 255, (14, 3, SIZE, SIZE)))
    transform = TrivialAugment(RECIPE).double()
    whole, _ = transform(images, images, draws)
    others, changed = images.clone(), draws.clone()
    others[:7], changed[1:7] = 255 - images[:7], torch.rand(6, 2)
    assert torch.equal(transform(others, others, changed)[0][7:], whole[7:])
