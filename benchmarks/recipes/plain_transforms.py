"""The usual transforms of training images, written out after torchvision's and timm's definitions, on Pillow.

torchvision itself cannot be imported beside every build of torch. References: torchvision 0.13's `transforms` and
`autoaugment.TrivialAugmentWide`, its references/classification/transforms.py for mixup and CutMix, and timm 0.5's
`timm/data/transforms_factory.py`. All that is random comes from `random`, which DataLoader seeds in each worker.
"""

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
ASPECT = (3 / 4, 4 / 3)
MAGNITUDES = 31  # TrivialAugment's levels


def random_resized_crop(image: Image.Image, size: int, interpolation: Image.Resampling = BILINEAR) -> Image.Image:
    """torchvision's RandomResizedCrop: 8 to 100% of the area, aspect 3/4 to 4/3, resized with antialiasing."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            break
    else:  # the centre, as much of it as the aspect allows
        w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
        left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h)).resize((size, size), interpolation)


def random_flip(image: Image.Image) -> Image.Image:
    """The mirror image of every second one."""
    return ImageOps.mirror(image) if random.random() < 0.5 else image


def colour_jitter(image: Image.Image, strength: float) -> Image.Image:
    """torchvision's ColorJitter of brightness, contrast and saturation by 1 ± `strength`, in random order."""
    changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for change in random.sample(changes, len(changes)):
        image = change(image).enhance(random.uniform(1 - strength, 1 + strength))
    return image


def trivial_augment(image: Image.Image) -> Image.Image:
    """torchvision's TrivialAugmentWide: one operation of fourteen, of one strength of 31, bilinear."""
    name = random.choice(list(_OPERATIONS))
    level = random.randrange(MAGNITUDES) / (MAGNITUDES - 1)
    return _OPERATIONS[name](image, level, random.choice((-1, 1)))


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, BILINEAR)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> "Operation":
    return lambda image, level, sign: kind(image).enhance(1 + sign * 0.99 * level)


def _posterize(image: Image.Image, level: float, _: int) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(level * 6))


Operation = Callable[[Image.Image, float, int], Image.Image]
_OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, _level, _sign: image,
    "shear_x": lambda image, level, sign: _affine(image, 1, sign * 0.99 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level, sign: _affine(image, 1, 0, 0, sign * 0.99 * level, 1, 0),
    "translate_x": lambda image, level, sign: _affine(image, 1, 0, sign * int(32 * level), 0, 1, 0),
    "translate_y": lambda image, level, sign: _affine(image, 1, 0, 0, 0, 1, sign * int(32 * level)),
    "rotate": lambda image, level, sign: image.rotate(sign * 135 * level, BILINEAR),
    "brightness": _enhance(ImageEnhance.Brightness),
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": _posterize,
    "solarize": lambda image, level, _sign: ImageOps.solarize(image, math.ceil(255 * (1 - level))),
    "autocontrast": lambda image, _level, _sign: ImageOps.autocontrast(image),
    "equalize": lambda image, _level, _sign: ImageOps.equalize(image),
}


def to_tensor(image: Image.Image, mean: Tensor, std: Tensor) -> Tensor:
    """The image as float32 [3, H, W], normalised by `mean` and `std`, [3] in 0..255."""
    pixels = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1).copy())
    return (pixels - mean[:, None, None]) / std[:, None, None]


def random_erasing(image: Tensor, probability: float) -> Tensor:
    """torchvision's RandomErasing of a normalised image [3, H, W]: 2 to 33% of it becomes 0."""
    if random.random() >= probability:
        return image
    height, width = image.shape[1:]
    for _ in range(10):
        area = height * width * random.uniform(0.02, 0.33)
        aspect = math.exp(random.uniform(math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            image[:, top : top + h, left : left + w] = 0
            break
    return image


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """torchvision's RandomChoice of RandomMixup(`mixup`) and RandomCutmix(`cutmix`), each with the batch rolled by one.

    images float32 [N, 3, H, W], targets float32 [N, C].
    """
    if random.random() < 0.5:
        share = random.betavariate(mixup, mixup)
        return torch.lerp(images.roll(1, 0), images, share), torch.lerp(targets.roll(1, 0), targets, share)
    share = random.betavariate(cutmix, cutmix)
    height, width = images.shape[2:]
    y, x = random.randrange(height), random.randrange(width)
    half_h, half_w = int(0.5 * math.sqrt(1 - share) * height), int(0.5 * math.sqrt(1 - share) * width)
    top, bottom = max(0, y - half_h), min(height, y + half_h)
    left, right = max(0, x - half_w), min(width, x + half_w)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, torch.lerp(targets.roll(1, 0), targets, share)
