"""The projection of `bench step`, and the reference's figures in the README, by the same arithmetic."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imagesprint.diagnosis.bench_step import VARIANTS, project
from imagesprint.diagnosis.step_timing import TimedTraining, shape_of
from imagesprint.model import fusing
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.ranks import Ranks

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_projection_sums_the_phases_at_the_speed_of_their_shapes() -> None:
    recipe = load_recipe("minutes104")
    shapes = ((128, 5920, 740), (224, 2048, 256), (224, 1568, 196), (288, 1024, 128))
    measured = {(*shape, "none"): 1000.0 * place for place, shape in enumerate(shapes, 1)}
    projection = project(recipe, Schedule(recipe, 1_281_167), measured)
    assert [row.images_per_second for row in projection.phases] == [1000, 1000, 2000, 3000, 4000]
    images = [row.images for row in projection.phases]
    assert projection.seconds == pytest.approx(
        sum(images[:2]) / 1000 + images[2] / 2000 + images[3] / 3000 + images[4] / 4000
    )
    for count in (sum(images[:2]), *images[2:]):
        assert f"{count:,}" in README


def test_the_references_speeds_come_to_what_the_readme_says() -> None:
    recipe = load_recipe("minutes104")
    cited = {128: 14_200, 224: 4_800, 288: 2_650}
    speeds = {
        shape_of(phase): 4_130 if phase.batch_size == 1568 else cited[phase.image_size] for phase in recipe.phases
    }
    assert f"{project(recipe, Schedule(recipe, 1_281_167), speeds).seconds:,.0f} s that way" in README


def test_our_kernels_are_tried_for_the_variant_that_has_them(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial compiles them, which takes a GPU's machine half a minute: not where they are not to train."""
    monkeypatch.setattr(fusing, "FUSED_DEVICE", "cpu")
    monkeypatch.setitem(sys.modules, "imagesprint.model.fused_resnet", None)
    recipe, ranks = replace(tiny_recipe, precision="bf16"), Ranks(0, 1, 0, 1, torch.device("cpu"))
    said = {
        name: TimedTraining(recipe, 2, ranks, compilation, fused).state.not_fused
        for name, (compilation, fused) in VARIANTS.items()
    }
    assert (said["eager"], said["compiled"]) == (None, None)
    assert str(said["fused"]).startswith("Triton cannot be imported")
