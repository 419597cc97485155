"""What differs between two recipes."""

from dataclasses import replace

from imagesprint.recipes.compare import Difference, differences
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.overrides import apply_overrides

SMALL = load_recipe("small")


def test_a_recipe_does_not_differ_from_itself() -> None:
    assert differences(SMALL, load_recipe("small")) == []


def test_keys_are_those_of_set() -> None:
    other = apply_overrides(SMALL, ["seed=3", "phases.0.lr=[0.1,0.3]"])
    assert differences(SMALL, other) == [
        Difference("seed", 0, 3),
        Difference("phases.0.lr", SMALL.phases[0].lr, (0.1, 0.3)),
    ]


def test_a_row_that_one_lacks_is_shown_whole() -> None:
    shorter = replace(SMALL, phases=SMALL.phases[:2])
    assert differences(SMALL, shorter) == [Difference("phases", 3, 2), Difference("phases.2", SMALL.phases[2], None)]
    assert differences(shorter, SMALL)[1] == Difference("phases.2", None, SMALL.phases[2])


def test_classic_and_baseline90_differ_in_what_was_done_right() -> None:
    keys = {found.key for found in differences(load_recipe("classic"), load_recipe("baseline90"))}
    assert {"strides", "zero_init", "decay_norm_and_bias", "antialias", "crop", "phases.0.lr"} <= keys
    assert "model" not in keys
