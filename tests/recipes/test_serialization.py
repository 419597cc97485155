import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from imagesprint.errors import RankError, RecipeError
from imagesprint.recipes.library import Difference, builtin_names, differences, load_recipe
from imagesprint.recipes.serialization import apply_overrides, from_dict, from_toml, to_dict, to_toml
from imagesprint.recipes.validation import check_world_size

ROW = "{ epochs = [0, 2], lr = [0.1, 0.2], method = 'linear', batch_size = 8, micro_batch = 4, image_size = 16 }"


@pytest.mark.parametrize("name", builtin_names())
def test_round_trips_are_exact(name: str) -> None:
    recipe = load_recipe(name)
    assert from_toml(to_toml(recipe), "x") == recipe
    assert from_dict(to_dict(recipe)) == recipe
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe
    assert to_toml(from_toml(to_toml(recipe), "x")) == to_toml(recipe)
    assert tomllib.loads(to_toml(recipe)) == to_dict(recipe)


def test_ugly_values_round_trip() -> None:
    recipe = replace(
        load_recipe("small"),
        name='a "quoted" \\ name\n\t\x7f\x01 with é, 图 and 🌻',
        weight_decay=1e-300,
        bn_eps=0.1 + 0.2,
        loss_scale=1e22,
        seed=2**63 - 1,
    )
    assert from_toml(to_toml(recipe), "x") == recipe


def test_a_phase_is_one_line() -> None:
    lines = to_toml(load_recipe("minutes104")).splitlines()
    rows = [line for line in lines if "epochs = " in line]
    assert len(rows) == 5
    assert len({line.index("method") for line in rows}) == 1  # aligned as a table


def test_settings_left_out_have_their_defaults() -> None:
    recipe = from_toml(f"name = 'mine'\nphases = [{ROW}]", "x")
    assert recipe.momentum == 0.9
    assert recipe.phases[0].source == "full"


def test_a_whole_number_does_for_a_float() -> None:
    recipe = from_toml(f"name = 'mine'\nweight_decay = 0\nphases = [{ROW}]", "x")
    assert type(recipe.weight_decay) is float


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("name = ", "not valid TOML"),
        ("", "name is missing"),
        ("name = 'x'", "phases: there is none"),
        ("name = 'x'\nphases = 3", "phases: expected a list"),
        ("name = 'x'\nphases = [3]", "phases: expected a list"),
        ("name = 3\nphases = [ROW]", "name: expected text, found 3"),
        ("name = 'x'\nseed = '3'\nphases = [ROW]", "seed: expected a whole number, found 3"),
        ("name = 'x'\nseed = true\nphases = [ROW]", "seed: expected a whole number, found True"),
        ("name = 'x'\nseed = 2020-01-01\nphases = [ROW]", "seed: expected a whole number"),
        ("name = 'x'\nflip = 1\nphases = [ROW]", "flip: expected true or false, found 1"),
        ("name = 'x'\nmean = 128\nphases = [ROW]", "mean: expected a list of 3 numbers, found 128"),
        ("name = 'x'\nmean = ['a', 1, 2]\nphases = [ROW]", "mean: expected a list of 3 numbers"),
        ("name = 'x'\nweight_decay = nan\nphases = [ROW]", "weight_decay: nan"),
        ("name = 'x'\nweight_decay = 1" + "0" * 400 + "\nphases = [ROW]", "weight_decay: expected a number"),
        ("name = 'x'\nnestrov = true\nphases = [ROW]", "unknown key 'nestrov'"),
        ("name = 'x'\nphases = [ROW, { epochs = [2, 4] }]", "phases.1: lr is missing"),
        ("name = 'x'\nphases = [{ epoch = [2, 4] }]", "phases.0: unknown key 'epoch'"),
        ("name = 'x'\nphases = [ROW]\n[optimiser]\nlr = 3", "unknown key 'optimiser'"),
        ("name = 'x'\nphases = [ROW]\n[optimizer]\nlr = 3", "optimizer: expected text, found {'lr': 3}"),
        ("name = 'x'\naugment = 'grey'\nphases = [ROW]", "augment: expected a list of texts, found grey"),
        ("name = 'x'\nname = 'y'\nphases = [ROW]", "not valid TOML"),
        ("name = 'x'\0\nphases = [ROW]", "not valid TOML"),
        ("name = " + "[" * 50_000, "not valid TOML"),
        ("name = 'x'\nseed" + ".a" * 3000 + " = 1\nphases = [ROW]", "seed: expected a whole number, found {'a': {"),
        ("name = 'x'\nseed = 0x" + "f" * 9000 + "\nphases = [ROW]", "seed: expected a whole number, found a number of"),
        ("name = 'x'\nbn_eps = 0x" + "f" * 9000 + "\nphases = [ROW]", "bn_eps: expected a number, found a number of"),
        ("name = 'x'\nmodel = '" + "x" * 10_000 + "'\nphases = [ROW]", "model: unknown value 'xxx"),
        ("name = 'x'\neval_source = '" + "1" * 5000 + "'\nphases = [ROW]", "eval_source: unknown variant '111"),
        ("name = 'x'\neval_batch_size = 1_000_000_000\nphases = [ROW]", "eval_batch_size: 1000000000 images of 224 px"),
        ("name = 'x'\neval_resize = 1_000_000\nphases = [ROW]", "eval_resize: 1000000 is out of range"),
        (
            "name = 'x'\nphases = [ROW]".replace("ROW", ROW.replace("= 16 }", "= 60000 }")),
            "phases.0.micro_batch: 4 images",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_file(text: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        from_toml(text.replace("ROW", ROW), "mine.toml")
    assert caught.value.what.startswith("mine.toml: ")
    assert len(caught.value.what) < 300
    assert what in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (None, "expected a table, found None"),
        ([], "expected a table, found []"),
        ("name", "expected a table, found name"),
        ({1: 2}, "expected a table, found {1: 2}"),
        ({"name": "x", "phases": [{1: 2}]}, "phases: expected a list"),
        ({"name": "x", "phases": {}}, "phases: expected a list"),
        ({"name": "x", "seed": object(), "phases": []}, "seed: expected a whole number, found <object"),
        ({"name": "x", "mean": {1, 2, 3}, "phases": []}, "mean: expected a list of 3 numbers"),
    ],
)
def test_what_is_no_recipe_at_all_is_refused(data: Any, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        from_dict(data, "some.pt")
    assert caught.value.what.startswith(f"some.pt: {what}")


def test_a_dict_of_other_types_is_refused() -> None:
    data: dict[str, Any] = to_dict(load_recipe("small"))
    data["phases"][0]["batch_size"] = None
    with pytest.raises(RecipeError, match=r"phases\.0\.batch_size: expected a whole number, found None"):
        from_dict(data)


SMALL = load_recipe("small-2026-11")


def test_values_are_read_by_the_type_of_their_field() -> None:
    recipe = apply_overrides(
        SMALL,
        ["seed=3", "weight_decay=1", "flip=False", "model = resnet34", "mean=[1,2.5,3]", "std=1, 2, 3", "init=a=b.pt"],
    )
    assert (recipe.seed, recipe.weight_decay, recipe.flip, recipe.model) == (3, 1.0, False, "resnet34")
    assert (recipe.mean, recipe.std, recipe.init) == ((1.0, 2.5, 3.0), (1.0, 2.0, 3.0), "a=b.pt")
    assert type(recipe.weight_decay) is float


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", ()), ("[]", ()), ("mixup 0.2", ("mixup 0.2",)), ("mixup 0.2, trivial", ("mixup 0.2", "trivial")),
        ("[trivial,mixup 1,  pad 4]", ("trivial", "mixup 1", "pad 4")),
        ("""['trivial', "mixup 0.2"]""", ("trivial", "mixup 0.2")),
    ],
)  # fmt: skip
def test_a_list_of_any_length_is_read_written_and_compared(text: str, entries: tuple[str, ...]) -> None:
    recipe = apply_overrides(SMALL, [f"augment={text}"])
    assert recipe.augment == entries
    assert from_toml(to_toml(recipe), "x") == recipe
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe
    assert differences(SMALL, recipe) == ([Difference("augment", (), entries)] if entries else [])


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
        ("optimizer=adm", "'adm'", "did you mean adamw?"),
        ("loss=cross-entropy", "'cross-entropy'", "did you mean cross_entropy?"),
        ("augment=mixip 0.2", "augment: unknown transform 'mixip 0.2'", "did you mean mixup?"),
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
