"""The projection of `bench step`, and the reference's figures in the README, by the same arithmetic."""

from pathlib import Path

import pytest

from imagesprint.diagnosis.bench_step import project
from imagesprint.diagnosis.step_timing import shape_of
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.schedule import Schedule

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_projection_sums_the_phases_at_the_speed_of_their_shapes() -> None:
    recipe = load_recipe("minutes104")
    shapes = ((128, 5920, 740), (224, 2048, 256), (224, 1568, 196), (288, 1024, 128))
    measured = {shape: 1000.0 * place for place, shape in enumerate(shapes, 1)}
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
