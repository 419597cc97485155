"""`--set KEY=VALUE`."""

import pytest

from imagesprint.errors import RankError, RecipeError
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.overrides import apply_overrides
from imagesprint.recipes.toml_format import from_toml, to_toml
from imagesprint.recipes.validation import check_world_size

SMALL = load_recipe("small")


def test_values_are_read_by_the_type_of_their_field() -> None:
    recipe = apply_overrides(
        SMALL,
        ["seed=3", "weight_decay=1", "flip=False", "model = resnet34", "mean=[1,2.5,3]", "std=1, 2, 3", "init=a=b.pt"],
    )
    assert (recipe.seed, recipe.weight_decay, recipe.flip, recipe.model) == (3, 1.0, False, "resnet34")
    assert (recipe.mean, recipe.std, recipe.init) == ((1.0, 2.5, 3.0), (1.0, 2.0, 3.0), "a=b.pt")
    assert type(recipe.weight_decay) is float


def test_one_row_and_every_row() -> None:
    recipe = apply_overrides(SMALL, ["phases.*.micro_batch=64", "phases.2.lr=[0.1,0.01]", "phases.0.source=full"])
    assert [phase.micro_batch for phase in recipe.phases] == [64, 64, 64]
    assert recipe.phases[2].lr == (0.1, 0.01)
    assert [phase.source for phase in recipe.phases] == ["full", "160", "160"]


def test_a_later_override_wins() -> None:
    assert apply_overrides(SMALL, ["seed=1", "seed=2"]).seed == 2


def test_all_are_applied_before_the_check() -> None:
    changes = ["phases.*.epochs=none", "phases.0.steps=0,5", "phases.1.steps=(5, 9)", "phases.2.steps=[9, 20]"]
    assert [phase.steps for phase in apply_overrides(SMALL, changes).phases] == [(0, 5), (5, 9), (9, 20)]
    with pytest.raises(RecipeError, match=r"phases\.1"):
        apply_overrides(SMALL, changes[:2])


def test_none_at_all_changes_nothing() -> None:
    assert apply_overrides(SMALL, []) == SMALL


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("weight_deacy=1", "'weight_deacy'", "did you mean weight_decay?"),
        ("phases.0.micro_bach=1", "'micro_bach'", "did you mean micro_batch?"),
        ("micro_batch=16", "micro_batch", "--set 'phases.*.micro_batch=16'"),
        ("qqqqq=1", "'qqqqq'", "the keys are name, seed"),
        ("seed", "'seed'", "seed=3"),
        ("=3", "'=3'", ""),
        ("seed=", "seed", "whole number"),
        ("seed=1.5", "1.5", "whole number"),
        ("seed=" + "9" * 5000, "seed", "whole number"),
        ("flip=maybe", "maybe", "true or false"),
        ("mean=1,2", "[1.0, 2.0]", "3 numbers"),
        ("momentum=nan", "momentum: nan", ""),
        ("phases=3", "phases", "phases.2.lr"),
        ("phases.0=3", "phases.0", ""),
        ("phases.7.lr=1,1", "'7'", "0 to 2"),
        ("phases.-1.lr=1,1", "'-1'", "0 to 2"),
        ("phases.00.lr=1,1", "'00'", "0 to 2"),
        ("phases.01.lr=1,1", "'01'", "0 to 2"),
        ("phases.0.lr=0.1", "phases.0.lr", "2 numbers"),
        ("phases.*.batch_size=100", "phases.0", "micro_batch"),
    ],
)
def test_a_wrong_override_is_one_clear_error(override: str, what: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_overrides(SMALL, [override])
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_a_micro_batch_may_be_left_to_the_memory() -> None:
    recipe = apply_overrides(SMALL, ["phases.*.micro_batch=auto", "phases.1.micro_batch=16"])
    assert [phase.micro_batch for phase in recipe.phases] == [0, 16, 0]
    assert to_toml(recipe).count('micro_batch = "auto",') == len(recipe.phases) - 1
    assert from_toml(to_toml(recipe), "auto.toml") == recipe
    check_world_size(recipe, 8)  # 8 micro-batches of 16, and 128 images
    with pytest.raises(RankError, match="3 ranks"):
        check_world_size(recipe, 3)
    with pytest.raises(RecipeError, match="auto"):
        assert recipe.phases[0].micro_batches
    with pytest.raises(RecipeError, match="batch_size"):
        apply_overrides(recipe, ["phases.0.batch_size=auto"])
