"""mixup, CutMix and random erasing against their formulas, image by image, in float64."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.recipes.recipe import CHOICE, TRANSFORM_DRAWS, Phase, Recipe
from imagesprint.training.mixing import CutMix, Erasing, Mixup, OneOf, beta_quantiles
from imagesprint.training.transforms import transforms_of

RECIPE = Recipe(
    name="test", mean=(120.5, -3.0, 300.0), phases=(Phase((0, 1), (0.1, 0.1), "constant", 8, 8, 20),), precision="fp64"
)
IMAGES = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (64, 3, 20, 20)))
TARGETS = torch.eye(5, dtype=torch.float64)[torch.arange(64) * 3 % 5]
DRAWS = torch.from_numpy(np.random.default_rng(1).random((64, 5), np.float32))


def applied(kind: Any, *numbers: float) -> list[tuple[np.ndarray, np.ndarray, int, list[float]]]:
    """Each image and its targets after the transform, its row, and its draws."""
    images, targets = kind(RECIPE, *numbers).double()(IMAGES, TARGETS, DRAWS)
    assert images.shape == IMAGES.shape
    torch.testing.assert_close(targets.sum(1), torch.ones(64, dtype=torch.float64), rtol=0, atol=1e-15)
    rows = zip(images.numpy(), targets.numpy(), range(64), DRAWS.tolist(), strict=True)
    return list(rows)


def chosen(draw: float) -> float:
    """The middle of the one of 4096 equal parts of 0..1 that a draw lies in."""
    return (math.floor(draw * 4096) + 0.5) / 4096


@pytest.mark.parametrize(
    ("alpha", "distribution"),
    [
        (1.0, lambda x: x),
        (0.5, lambda x: 2 / math.pi * np.arcsin(np.sqrt(x))),
        (2.0, lambda x: 3 * x**2 - 2 * x**3),
        (1.5, lambda x: (2 * np.arcsin(np.sqrt(x)) + 2 * np.sqrt(x - x**2) * (2 * x - 1)) / math.pi),
        (3.0, lambda x: 10 * x**3 - 15 * x**4 + 6 * x**5),
    ],
)
def test_quantiles_are_those_of_the_distribution_where_it_has_a_formula(alpha: float, distribution: Any) -> None:
    found = beta_quantiles(alpha)
    np.testing.assert_allclose(distribution(found), (np.arange(4096) + 0.5) / 4096, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 8.0])
def test_quantiles_have_the_mean_and_the_variance_of_the_distribution(alpha: float) -> None:
    found = beta_quantiles(alpha)
    assert (np.diff(found) >= 0).all()
    assert 0 <= found[0] <= found[-1] <= 1
    assert found.mean() == pytest.approx(0.5)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)


def test_mixup_is_the_weighted_mean_with_the_image_before_which_has_half_at_most() -> None:
    for image, targets, row, draws in applied(Mixup, 1.0):
        share = (math.floor(draws[0] * 2048) + 0.5) / 4096
        for found, of in ((image, IMAGES), (targets, TARGETS)):
            np.testing.assert_allclose(found, (1 - share) * of[row].numpy() + share * of[row - 1].numpy(), atol=1e-12)


def test_cutmix_puts_a_box_of_the_image_before_and_counts_what_is_within_the_image() -> None:
    cut_off = 0
    for image, targets, row, draws in applied(CutMix, 1.0):
        length = int(math.sqrt(chosen(draws[0])) * 20)
        top, left = (int(draw * 20) - length // 2 for draw in draws[1:3])
        expected = IMAGES[row].numpy().copy()
        box = (slice(None), slice(max(top, 0), top + length), slice(max(left, 0), left + length))
        expected[box] = IMAGES[row - 1].numpy()[box]
        share = expected[box][0].size / 400
        assert (image == expected).all()
        np.testing.assert_allclose(targets, (1 - share) * TARGETS[row] + share * TARGETS[row - 1], atol=1e-15)
        cut_off += share < length**2 / 400
    assert 0 < cut_off < 64


def test_erasing_sets_a_box_to_the_mean_that_a_pixel_can_have() -> None:
    erased = 0
    for image, targets, row, draws in applied(Erasing, 0.5):
        expected = IMAGES[row].numpy().copy()
        if draws[0] < 0.5:
            area, aspect = 400 * (0.02 + draws[1] * (1 / 3 - 0.02)), 0.3 * (3.3 / 0.3) ** chosen(draws[2])
            sides = [min(max(round(side), 1), 20) for side in (math.sqrt(area * aspect), math.sqrt(area / aspect))]
            rows, columns = (
                slice(int(draw * (21 - side)), int(draw * (21 - side)) + side)
                for draw, side in zip(draws[3:], sides, strict=True)
            )
            expected[:, rows, columns] = np.array([120.5, 0, 255])[:, None, None]
            erased += 1
        assert (image == expected).all()
        assert (targets == TARGETS[row].numpy()).all()
    assert 20 < erased < 44


def test_of_several_each_image_gets_one_made_of_whole_images() -> None:
    kinds, draws = [Mixup(RECIPE, 1.0).double(), CutMix(RECIPE, 1.0).double()], DRAWS
    images, targets = OneOf(kinds, [1, 3])(IMAGES, TARGETS, draws)
    each = [kind(IMAGES, TARGETS, own) for kind, own in zip(kinds, (draws[:, 1:2], draws[:, 2:5]), strict=True)]
    chosen = [draw >= 0.5 for draw in draws[:, 0].tolist()]
    assert 20 < sum(chosen) < 44
    for row, number in enumerate(chosen):
        assert torch.equal(images[row], each[number][0][row])
        assert torch.equal(targets[row], each[number][1][row])


def test_a_recipe_that_names_both_has_them_in_one_turn_at_the_place_of_the_first() -> None:
    augment = ("cutmix 1", "erasing 0.5", "mixup 0.2", "pad 2")
    recipe = replace(RECIPE, augment=augment)
    assert CHOICE.purpose not in {row.purpose for row in TRANSFORM_DRAWS.values()}
    assert recipe.turns == ((("cutmix", (1.0,)), ("mixup", (0.2,))), (("erasing", (0.5,)),), (("pad", (2.0,)),))
    assert recipe.draws == ((23, 1), (17, 3), (16, 1), (18, 5), (22, 2))
    assert replace(RECIPE, augment=augment[1:]).draws == ((18, 5), (16, 1), (22, 2))
    pixels = (IMAGES * 0.99).permute(0, 2, 3, 1).to(torch.uint8)
    draws = torch.cat((DRAWS, torch.ones(64, 7) * 0.6), 1)  # nothing is erased, and moved by nothing
    found, targets = transforms_of(replace(recipe, augment=(*augment[:3], "grey 0")), 5, torch.device("cpu"))(
        pixels, TARGETS.argmax(1), draws[:, :11]
    )
    both = OneOf([CutMix(RECIPE, 1.0).double(), Mixup(RECIPE, 0.2).double()], [3, 1])
    images, shares = both(pixels.permute(0, 3, 1, 2).double(), TARGETS, draws[:, :5])
    assert torch.equal(found, images.permute(0, 2, 3, 1))
    assert torch.equal(targets, shares)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_an_image_alone_stays_as_it_is(kind: Any) -> None:
    images, targets = kind(RECIPE, 1.0).double()(IMAGES[:1], TARGETS[:1], DRAWS[:1])
    assert torch.equal(images, IMAGES[:1])
    assert torch.equal(targets, TARGETS[:1])
