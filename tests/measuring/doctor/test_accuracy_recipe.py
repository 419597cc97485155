from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.measuring.doctor.accuracy_recipe import recipe_checks, resolution, schedule_checks
from imagesprint.measuring.doctor.check import WARNING, Check
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.overrides import apply_overrides
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import open_root

IMAGENET = 1_281_167


def warnings(checks: list[Check]) -> dict[str, Check]:
    assert all(check.hint for check in checks if check.status == WARNING)
    return {check.name: check for check in checks if check.status == WARNING}


@pytest.mark.parametrize("name", ["demo", "small", "minutes104", "baseline90"])
def test_the_built_in_recipes_are_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert not warnings([*recipe_checks(recipe), resolution(recipe, None)])
    schedule = Schedule(recipe, {"demo": 1438, "small": 2930}.get(name, IMAGENET))
    assert not warnings(schedule_checks(recipe, schedule, schedule.total_steps))


def test_what_classic_lacks_is_named() -> None:
    found = warnings(recipe_checks(load_recipe("classic")))
    assert list(found) == ["antialiasing", "zero init", "strides"]
    assert found["strides"].hint == "train anew with --set strides=v1.5"


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        (["eval_image_size=160"], "evaluation size", "objects are smaller than in training"),
        (["eval_resize=512", "eval_image_size=448"], "evaluation size", "objects are larger than in training"),
        (["crop=center", "eval_image_size=192"], "evaluation size", "trained at 224 px in the end, by centre crops"),
        (["phases.*.micro_batch=8"], "batch norm", "8 images or more"),
        (["phases.*.batch_size=1024"], "learning rate", "0.25 times that of baseline90"),
        (["phases.1.lr=1.0,1.0"], "learning rate", "10 times that of baseline90"),
        (["name=mine", "phases.1.lr=3.0,3.0"], "learning rate", "30 times 0.1 for 256 images"),
        (["phases.4.lr=0.01,0.01"], "last rate", "ends at 0.01, having been 0.1"),
    ],
)
def test_a_change_is_found(changes: list[str], name: str, said: str) -> None:
    found = warnings(recipe_checks(apply_overrides(load_recipe("baseline90"), changes)))
    assert list(found) == [name]
    assert said in found[name].detail


def test_a_rate_that_is_scaled_with_the_batch_is_no_finding() -> None:
    changes = ["phases.*.batch_size=512", "phases.0.lr=0.002,0.2", "phases.1.lr=0.2,0.2"]
    assert not warnings(recipe_checks(apply_overrides(load_recipe("baseline90"), changes)))


def test_a_rate_of_nothing() -> None:
    recipe = apply_overrides(load_recipe("small"), ["phases.*.lr=0,0"])
    assert "0 throughout" in warnings(recipe_checks(recipe))["learning rate"].detail


def test_other_sizes_are_suggested_where_evaluation_sees_what_training_saw() -> None:
    checks = {check.name: check for check in recipe_checks(load_recipe("baseline90"))}
    assert checks["evaluation size"].hint.endswith("--sizes 224,256,288")


def test_weight_decay_on_batch_norm_is_told() -> None:
    checks = {check.name: check for check in recipe_checks(load_recipe("classic"))}
    assert checks["weight decay"].detail == "0.0001, on batch norm and biases, too"
    assert "decay_norm_and_bias=false" in checks["weight decay"].hint


def test_statistics_and_averages_that_remember_the_beginning() -> None:
    recipe = replace(load_recipe("baseline90"), bn_momentum=0.0003, ema_decay=0.99999)
    schedule = Schedule(recipe, 25_600)  # 100 steps an epoch
    found = warnings(schedule_checks(recipe, schedule, schedule.total_steps))
    assert list(found) == ["norm statistics", "moving average"]
    assert found["norm statistics"].detail.startswith("74.1% is from before the last 1,000 steps")
    assert "--recalibrate" in found["norm statistics"].hint
    assert found["moving average"].detail.startswith("91.4% of it is how the network began")
    early = warnings(schedule_checks(load_recipe("baseline90"), schedule, 510))
    assert early["norm statistics"].detail.startswith("34.9% is from before the last 10 steps")


def test_epochs_that_leave_much_out() -> None:
    recipe = load_recipe("baseline90")
    found = warnings(schedule_checks(recipe, Schedule(recipe, 400), 90))
    assert found["epochs"].detail.startswith("at most 144 of 400 images")


def test_images_that_are_enlarged(photo_root: Path) -> None:
    recipe = load_recipe("small")
    assert resolution(replace(recipe, eval_resize=256), None).detail == (
        "evaluation with a shorter side of 256 px enlarges images of variant 160"
    )
    large = apply_overrides(recipe, ["phases.2.image_size=192"])
    found = resolution(large, None)
    assert (found.status, found.detail) == (WARNING, "phase 2 at 192 px enlarges images of variant 160")
    assert "--variants 192" in found.hint
    assert not warnings([resolution(large, open_root(photo_root))])  # it has full, which is taken
