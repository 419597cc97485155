"""TrivialAugment as a batch transform: one operation an image, any of them, at any strength."""

import torch
from torch import Tensor, nn

from imagesprint.recipes.recipe import Recipe
from imagesprint.training import pixel_operations as pixels
from imagesprint.training.mixing import mean_pixel

# The paper's space "wide", as torchvision's TrivialAugmentWide has it.
OPERATIONS = (
    "shear x", "shear y", "translate x", "translate y", "rotate", "identity", "brightness", "colour", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
_AFFINE = 5  # of these: the first
LEVELS = 31  # of strength: evenly from none to the greatest, both included
_SHEAR, _PIXELS, _DEGREES, _FACTOR = 0.99, 32, 135, 0.99  # the greatest; the factor's is a difference from 1


class TrivialAugment(nn.Module):
    """TrivialAugment "wide" (Müller and Hutter 2021): to each image one of 14 operations, at one of 31 strengths.

    The operations are dealt out to a micro-batch in turn, beginning at one that the first image draws: each image gets
    each with the same probability, as in the paper, but together they do a fourteenth of the work that all operations
    on all images would be. What is moved in from outside is the recipe's mean pixel, places between pixels are
    interpolated, and nothing is rounded but for posterize and equalize.
    """

    steps: Tensor
    fill: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        # Of posterize: down to multiples of 1 to 64 leaves 8 to 2 bits
        self.register_buffer("steps", 2 ** (torch.arange(LEVELS, dtype=torch.float64) / 5).round())
        self.register_buffer("fill", mean_pixel(recipe))

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `transforms.TRANSFORMS` has it, with two draws: the operation (the first image's counts), the strength."""
        image_at, slot_of = self._deal(len(images), draws[0, 0])
        dealt = images.index_select(0, image_at)
        level = (draws[:, 1] * 2 * LEVELS).long().index_select(0, image_at)
        changed = self._changed(dealt, level % LEVELS, 1 - 2 * (level // LEVELS))
        return changed.index_select(0, slot_of), targets

    @staticmethod
    def _deal(count: int, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Which of `count` images lies at each slot, and the slot of each image: int64 [slots] and [count].

        There are as many slots for each operation, those of the first come first; slots that are left hold some image.
        """
        each = -(-count // len(OPERATIONS))
        slots = each * len(OPERATIONS)
        first = (draw * slots).long()
        slot, image = torch.arange(slots, device=draw.device), torch.arange(count, device=draw.device)
        image_at = (slot % each * len(OPERATIONS) + slot // each - first) % slots
        turn = (image + first) % slots
        return image_at.clamp(max=count - 1), turn % len(OPERATIONS) * each + turn // len(OPERATIONS)

    def _changed(self, dealt: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        """The images of all slots after the operations; level int64 [slots] in 0..30, sign 1 or −1."""
        each = len(dealt) // len(OPERATIONS)
        strength = level.to(dealt.dtype) / (LEVELS - 1)
        signed = strength * sign
        matrices = affine_matrices(signed.view(-1, each)[:_AFFINE], dealt.shape[-1])
        factors, thresholds, steps = (
            values[:, None, None, None]
            for values in (1 + _FACTOR * signed, pixels.WHITE * (1 - strength), self.steps[level])
        )
        at = {name: slice(index * each, (index + 1) * each) for index, name in enumerate(OPERATIONS)}
        return torch.cat(
            [
                pixels.moved(dealt[: _AFFINE * each], matrices, self.fill),
                dealt[at["identity"]],
                pixels.brightness(dealt[at["brightness"]], factors[at["brightness"]]),
                pixels.colour(dealt[at["colour"]], factors[at["colour"]]),
                pixels.contrast(dealt[at["contrast"]], factors[at["contrast"]]),
                pixels.sharpness(dealt[at["sharpness"]], factors[at["sharpness"]]),
                pixels.posterize(dealt[at["posterize"]], steps[at["posterize"]]),
                pixels.solarize(dealt[at["solarize"]], thresholds[at["solarize"]]),
                pixels.autocontrast(dealt[at["autocontrast"]]),
                pixels.equalize(dealt[at["equalize"]]),
            ]
        )


def affine_matrices(signed: Tensor, size: int) -> Tensor:
    """The matrices of the affine operations, as `pixel_operations.moved` takes them: float [5 · n, 2, 3].

    signed: float [5, n] in −1..1, the strengths of each operation's n images. Shearing leaves the upper left edges
    where they are, as Pillow's does with the numbers (1, shear, 0, 0, 1, 0); rotation is about the centre.
    """
    shear_x, shear_y = _SHEAR * signed[0], _SHEAR * signed[1]
    across, down = 2 * _PIXELS / size * signed[2], 2 * _PIXELS / size * signed[3]
    angle = torch.deg2rad(_DEGREES * signed[4])
    cosine, sine = angle.cos(), angle.sin()
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    rows = (
        (one, shear_x, shear_x, zero, one, zero),
        (one, zero, zero, shear_y, one, shear_y),
        (one, zero, across, zero, one, zero),
        (one, zero, zero, zero, one, down),
        (cosine, -sine, zero, sine, cosine, zero),
    )
    return torch.cat([torch.stack(row, 1) for row in rows]).view(-1, 2, 3)
