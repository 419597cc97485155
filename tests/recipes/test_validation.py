"""Every way a recipe can be wrong is named with its row and value."""

from dataclasses import replace
from typing import Any

import pytest

from imagesprint.errors import RankError, RecipeError
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.recipes.validation import check_world_size, largest_world_size, validate

GOOD = Recipe(
    "good",
    (
        Phase((0, 2), (0.1, 0.2), "linear", 64, 16, 32, "16"),
        Phase((2, 4), (0.2, 0.1), "cosine", 64, 16, 32),
        Phase((4, 6), (0.1, 0.1), "constant", 32, 8, 48),
    ),
)


def with_row(index: int, **changes: Any) -> Recipe:
    rows = list(GOOD.phases)
    rows[index] = replace(rows[index], **changes)
    return replace(GOOD, phases=tuple(rows))


def refused(recipe: Recipe, *words: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        validate(recipe)
    error = caught.value
    for word in words:
        assert word in error.what, (word, error.what)
    assert error.hint
    return error


def test_a_good_recipe_passes() -> None:
    validate(GOOD)


@pytest.mark.parametrize(
    ("index", "changes", "words"),
    [
        (0, {"epochs": (1, 2)}, ["phases.0.epochs", "starts at 1"]),
        (1, {"epochs": (3, 4)}, ["phases.1.epochs", "starts at 3", "phases.0 ends at 2", "a gap of 1"]),
        (1, {"epochs": (1, 4)}, ["phases.1.epochs", "starts at 1", "an overlap of 1"]),
        (2, {"epochs": (4, 4)}, ["phases.2.epochs", "[4, 4) is empty"]),
        (2, {"epochs": (4, 1)}, ["phases.2.epochs", "[4, 1) is empty"]),
        (0, {"epochs": (-1, 2)}, ["phases.0.epochs", "-1"]),
        (1, {"epochs": None, "steps": (2, 4)}, ["phases.1", "epochs"]),
        (1, {"epochs": None}, ["phases.1", "neither"]),
        (0, {"epochs": None}, ["phases.0", "neither"]),
        (2, {"steps": (4, 6)}, ["phases.2", "both"]),
        (1, {"method": "cosin"}, ["phases.1.method", "'cosin'"]),
        (1, {"method": "exponential", "lr": (0.1, 0.0)}, ["phases.1.lr", "[0.1, 0.0]", "exponential"]),
        (0, {"lr": (-0.1, 0.2)}, ["phases.0.lr", "-0.1", "negative"]),
        (2, {"lr": (0.1, 0.2)}, ["phases.2.lr", "constant"]),
        (0, {"lr": (0.1, float("nan"))}, ["phases.0.lr", "nan"]),
        (0, {"lr": (0.1, float("inf"))}, ["phases.0.lr", "inf"]),
        (0, {"lr": 0.1}, ["phases.0.lr", "0.1"]),
        (2, {"epochs": (4, 2**31)}, ["phases.2.epochs", "2147483648"]),
        (0, {"micro_batch": 15}, ["phases.0", "64", "15"]),
        (0, {"micro_batch": 128}, ["phases.0", "64", "128"]),
        (0, {"micro_batch": -1}, ["phases.0.micro_batch", "-1"]),
        (0, {"batch_size": 0}, ["phases.0.batch_size", "0"]),
        (0, {"batch_size": -64}, ["phases.0.batch_size", "-64"]),
        (0, {"batch_size": 64.0}, ["phases.0.batch_size", "64.0", "whole number"]),
        (0, {"image_size": 0}, ["phases.0.image_size", "0"]),
        (0, {"image_size": True}, ["phases.0.image_size", "True"]),
        (0, {"source": "half"}, ["phases.0.source", "'half'"]),
        (0, {"source": ""}, ["phases.0.source", "''"]),
        (0, {"source": "0160"}, ["phases.0.source", "'0160'"]),
        (0, {"source": "../160"}, ["phases.0.source", "'../160'"]),
        (0, {"source": "१६०"}, ["phases.0.source"]),
        (0, {"min_area": 0.0}, ["phases.0.min_area", "0.0"]),
        (0, {"min_area": 1.5}, ["phases.0.min_area", "1.5"]),
        (0, {"freeze": "head"}, ["phases.0.freeze", "'head'"]),
        (1, {"freeze": "stages 0"}, ["phases.1.freeze", "'stages 0'"]),
        (1, {"freeze": "stages 2 3"}, ["phases.1.freeze", "'stages 2 3'"]),
    ],
)
def test_a_wrong_row_is_named(index: int, changes: dict[str, Any], words: list[str]) -> None:
    refused(with_row(index, **changes), *words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("model", " "),
        ("optimizer", "adam"),
        ("loss", "hinge"),
        ("augment", "mixup 0.2"),
        ("augment", (0.2,)),
        ("seed", -1),
        ("seed", 2**63),
        ("strides", "v2"),
        ("stem", "7x7"),
        ("shortcut", "average"),
        ("attention", "cbam"),
        ("width", 0.0),
        ("width", 100.0),
        ("precision", "fp8"),
        ("crop", "centre"),
        ("bad_records", "skip"),
        ("momentum", 1.0),
        ("beta2", 1.0),
        ("rest_lr", 0.0),
        ("backbone_lr", -0.1),
        ("layer_decay", 1.5),
        ("layer_decay", 0.0),
        ("focal_gamma", -1.0),
        ("class_weights", "equal"),
        ("label_smoothing", -0.1),
        ("ema_decay", 1.0),
        ("weight_decay", -1e-4),
        ("weight_decay", float("nan")),
        ("loss_scale", -1.0),
        ("bn_momentum", 0.0),
        ("bn_eps", 0.0),
        ("aspect", (1.2, 0.8)),
        ("aspect", (0.0, 1.0)),
        ("aspect", (0.009, 1.0)),
        ("aspect", (1.0, 101.0)),
        ("min_object_covered", 1.1),
        ("std", (58.0, 0.0, 57.0)),
        ("std", (58.0, 1e-320, 57.0)),  # 0 in float32
        ("mean", (1e300, 0.0, 0.0)),
        ("mean", (float("inf"), 0.0, 0.0)),
        ("mean", (128.0, 128.0)),
        ("eval_source", "256px"),
        ("eval_image_size", 0),
        ("eval_batch_size", 0),
        ("eval_every", -1),
        ("eval_shape", "round"),
        ("patience", -1),
        ("recalibrate_bn", -1),
        ("balance", 1),
        ("flip", 1),
        ("init", "\udcff.pt"),
    ],
)
def test_a_wrong_setting_is_named(key: str, value: Any) -> None:
    changes: dict[str, Any] = {key: value}
    refused(replace(GOOD, **changes), key)


ONCE = replace(GOOD.phases[0], freeze="backbone")


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("phases.*.freeze", {"phases": GOOD.phases[:1]}),
        ("phases.*.image_size", {"phases": (ONCE, replace(ONCE, epochs=(2, 4), image_size=24))}),
        ("phases.*.source", {"phases": (ONCE, replace(ONCE, epochs=(2, 4), source="full"))}),
        ("crop", {"crop": "random_resized"}),
        ("flip", {"flip": True}),
        ("augment", {"augment": ("grey 0.2",)}),
        ("antialias", {"antialias": False}),
        ("freeze_norm", {"freeze_norm": "none"}),
        ("bad_records", {"bad_records": "substitute"}),
        ("recalibrate_bn", {"recalibrate_bn": 5}),
    ],
)
def test_features_once_needs_the_same_features_each_time(key: str, changes: dict[str, Any]) -> None:
    once = replace(GOOD, features_once=True, crop="center", flip=False, phases=(ONCE,))
    validate(once)
    error = refused(replace(once, **changes), f"features_once: {key} does not allow it")
    assert "features_once=false" in error.hint


def test_patience_without_evaluations_is_refused() -> None:
    refused(replace(GOOD, patience=3, eval_every=0), "patience: 3", "eval_every is 0")


@pytest.mark.parametrize(
    ("key", "value"),
    [("blurpool", True), ("stem", "deep"), ("shortcut", "pool"), ("attention", "se"), ("width", 2.0)],
)
def test_what_resnets_alone_have_is_refused_for_others(key: str, value: Any) -> None:
    changes: dict[str, Any] = {key: value}
    validate(replace(GOOD, model="resnet18", **changes))
    for model in ("efficientnet_lite0", "timm:vit_base"):
        error = refused(replace(GOOD, model=model, **changes), f"{key}: ", model)
        assert error.hint.startswith(f"set {key}=")


def test_an_evaluation_crop_larger_than_the_resized_image_is_refused() -> None:
    error = refused(replace(GOOD, eval_resize=128, eval_image_size=160), "160", "128")
    assert error.hint == "set eval_resize=160 or more"


def test_transforms_are_named_with_their_numbers() -> None:
    recipe = replace(GOOD, augment=("trivial", "mixup 0.2", "pad 4"))
    validate(recipe)
    assert recipe.transforms == (("trivial", ()), ("mixup", (0.2,)), ("pad", (4.0,)))
    assert recipe.draws == ((21, 2), (16, 1), (22, 2))
    assert refused(replace(GOOD, augment=("mixip 0.2",)), "'mixip 0.2'").hint == "did you mean mixup?"
    assert refused(replace(GOOD, augment=("?",)), "'?'").hint.startswith("there are mixup, cutmix, ")
    refused(replace(GOOD, augment=("",)), "unknown transform")
    for wrong in ("mixup", "mixup x", "mixup 9", "mixup nan", "mixup 0.2 0.2", "trivial 1"):
        refused(replace(GOOD, augment=(wrong,)), repr(wrong))
    assert refused(replace(GOOD, augment=("pad 2.5",)), "'pad 2.5'").hint == "write pad (1 to 64, a whole number)"
    refused(replace(GOOD, augment=("trivial", "mixup 1", "trivial")), "trivial is there twice")


def test_unequal_classes_are_made_up_for_once() -> None:
    refused(replace(GOOD, class_weights="sqrt", balance=True), "class_weights", "balance")


def test_nesterov_needs_momentum() -> None:
    refused(replace(GOOD, nesterov=True, momentum=0.0), "nesterov")
    refused(replace(GOOD, nesterov=True, optimizer="adamw"), "nesterov", "adamw")


def test_a_recipe_without_rows_is_refused() -> None:
    refused(replace(GOOD, phases=()), "phases")


def test_a_misspelt_choice_is_answered_with_the_nearest() -> None:
    assert "cosine" in refused(with_row(1, method="cosin")).hint


def sets_of(hint: str) -> list[str]:
    return [part.split("'")[0].split(" ")[0] for part in hint.replace("--set '", "--set ").split("--set ")[1:]]


def test_three_ranks_for_four_micro_batches_name_what_fits() -> None:
    recipe = load_recipe("small")
    with pytest.raises(RankError) as caught:
        check_world_size(recipe, 3)
    assert "3 ranks cannot share the 4 micro-batches of phases.0" in caught.value.what
    assert "run 1, 2, 4 ranks" in caught.value.hint
    assert "--set 'phases.*.micro_batch=21'" in caught.value.hint


@pytest.mark.parametrize("name", ["demo", "small", "classic", "minutes104"])
@pytest.mark.parametrize("ranks", [3, 5, 6, 7, 12, 16, 31, 32])
def test_the_suggested_sets_make_the_ranks_fit(name: str, ranks: int) -> None:
    recipe = load_recipe(name)
    with pytest.raises(RankError) as caught:
        check_world_size(recipe, ranks)
    changed = apply_overrides(recipe, sets_of(caught.value.hint))
    check_world_size(changed, ranks)
    if all(phase.batch_size % ranks == 0 for phase in recipe.phases):
        assert "batch_size" not in caught.value.hint


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_minutes104_runs_on_every_divisor_of_eight(ranks: int) -> None:
    check_world_size(load_recipe("minutes104"), ranks)


@pytest.mark.parametrize(("ranks", "fitting"), [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (100, 4)])
def test_the_most_ranks_that_fit(ranks: int, fitting: int) -> None:
    assert largest_world_size(GOOD, ranks) == fitting
    check_world_size(GOOD, fitting)
    assert largest_world_size(with_row(2, micro_batch=0), ranks) == fitting  # 32 images of auto: the others decide


@pytest.mark.parametrize("ranks", [0, -2])
def test_no_ranks_at_all(ranks: int) -> None:
    with pytest.raises(RankError):
        check_world_size(GOOD, ranks)


def test_steps_are_counted_in_31_bits() -> None:
    recipe = replace(GOOD, phases=(replace(GOOD.phases[0], epochs=None, steps=(0, 2**31)),))
    refused(recipe, "phases.0.steps", "2147483648")
    validate(replace(recipe, phases=(replace(recipe.phases[0], steps=(0, 2**31 - 1)),)))


def test_a_huge_number_of_micro_batches_takes_no_time() -> None:
    recipe = with_row(0, batch_size=2**40, micro_batch=1)
    recipe = replace(recipe, phases=recipe.phases[:1])
    check_world_size(recipe, 2**20)
    with pytest.raises(RankError) as caught:
        check_world_size(recipe, 3)
    assert "run 1, 2, 4, 8, 16," in caught.value.hint
