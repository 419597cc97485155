"""Operations on the pixels of images and on their places: what batch transforms are made of.

All take float images [M, 3, S, S] in 0..255, RGB, and give others of that kind. What is given for each image, such as
a factor, is float [M, 1, 1, 1]. Each is what Pillow's is, but that nothing is rounded: on whole numbers Pillow's differ
by up to 2. `posterize` and `equalize` are about whole numbers, and take others as if they were rounded, down and to the
nearest.
"""

import torch
from torch import Tensor
from torch.nn import functional

WHITE = 255


def luminance(images: Tensor) -> Tensor:
    """Brightness as the eye has it, [M, 1, S, S]: ITU-R BT.601's weights, as in Pillow's mode L."""
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Pillow's ImageEnhance.Brightness."""
    return (images * factor).clamp(0, WHITE)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Pillow's ImageEnhance.Contrast: away from, or towards, the mean luminance of the image."""
    mean = luminance(images).mean((1, 2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(0, WHITE)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Pillow's ImageEnhance.Color: away from, or towards, the luminance of each pixel."""
    grey = luminance(images)
    return (grey + factor * (images - grey)).clamp(0, WHITE)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Pillow's ImageEnhance.Sharpness: away from, or towards, its filter SMOOTH, which leaves the outermost pixels."""
    padded = functional.pad(images, (1, 1, 1, 1))
    lines = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    boxes = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]
    smooth = (boxes + 4 * images) / 13  # weights 1, in the middle 5
    places = torch.arange(images.shape[-1], device=images.device)
    within = (places > 0) & (places < images.shape[-1] - 1)
    sharpened = (smooth + factor * (images - smooth)).clamp(0, WHITE)
    return torch.where(within[:, None] & within, sharpened, images)


def posterize(images: Tensor, step: Tensor) -> Tensor:
    """Pillow's ImageOps.posterize, to 8 − log2(step) bits: down to multiples of `step`, a power of two."""
    return (images / step).floor() * step


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Pillow's ImageOps.solarize: values from `threshold` on are inverted."""
    return torch.where(images < threshold, images, WHITE - images)


def autocontrast(images: Tensor) -> Tensor:
    """Pillow's ImageOps.autocontrast: each channel stretched to 0..255; one of a single value stays as it is."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (images - low) * (WHITE / torch.where(spread > 0, spread, 1)), images)


def equalize(images: Tensor) -> Tensor:
    """Pillow's ImageOps.equalize: values of each channel in place of which their ranks stand, in 0..255."""
    values = images.round().long().flatten(2)
    counts = torch.zeros((*values.shape[:2], WHITE + 1), dtype=values.dtype, device=values.device)
    counts = counts.scatter_add(2, values, torch.ones_like(values))
    highest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - highest) // WHITE
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=WHITE)
    equal = table.gather(2, values).view_as(images).to(images.dtype)
    return torch.where(step[..., None] > 0, equal, images)


def moved(images: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """Pillow's Image.transform(AFFINE, BILINEAR) on an image with a border of `fill`, [3, 1, 1], without end.

    matrices: float [M, 2, 3], which give the place in `images` of each place in the result, (across, down), where the
    image reaches from −1 to 1.
    """
    size = images.shape[-1]
    places = (2 * torch.arange(size, device=images.device) + 1).to(images.dtype) / size - 1  # of the pixels' middles
    # Not functional.affine_grid, whose product of matrices takes six times as long on a CPU
    across, down, start = (matrices[:, :, None, column] for column in range(3))
    grid = (across * places)[:, :, None] + (down * places + start)[..., None]
    return functional.grid_sample(images - fill, grid.movedim(1, -1), "bilinear", "zeros", align_corners=False) + fill


def shifted(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Images moved up and to the left by whole pixels, int64 [M]; what comes in is the image, mirrored at its edges.

    As numpy.pad's "reflect", which mirrors again where the shift is larger than the image.
    """
    count, channels, size, _ = images.shape
    rows, columns = (_reflected(shift, size) for shift in (down, across))
    lines = torch.arange(count * channels, device=images.device).view(count, channels, 1) * size + rows[:, None]
    taken = images.reshape(-1, size).index_select(0, lines.flatten()).view_as(images)
    return taken.gather(3, columns[:, None, None].expand_as(images))


def _reflected(shift: Tensor, size: int) -> Tensor:
    """For each shift, int64 [M], which of `size` places stands at each: int64 [M, size]."""
    period = max(2 * size - 2, 1)
    places = (torch.arange(size, device=shift.device) + shift[:, None]) % period
    return torch.minimum(places, period - places)
