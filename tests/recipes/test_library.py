import pkgutil
from dataclasses import replace
from pathlib import Path

import pytest

import imagesprint.recipes.builtin
from imagesprint.errors import RecipeError
from imagesprint.recipes.library import Difference, builtin_names, builtin_notes, differences, load_recipe
from imagesprint.recipes.serialization import apply_overrides, to_toml
from imagesprint.recipes.validation import check_world_size

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


def test_every_module_of_the_folder_is_listed() -> None:
    modules = {module.name for module in pkgutil.iter_modules(imagesprint.recipes.builtin.__path__)}
    assert {name.replace("-", "_") for name in builtin_names()} == modules


@pytest.mark.parametrize("name", builtin_names())
def test_a_builtin_loads_under_its_name_and_says_how_it_is_run(name: str) -> None:
    assert load_recipe(name).name == name
    assert "imagesprint " in builtin_notes(name)


@pytest.mark.parametrize("name", ["demo", "small"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_demo_and_small_run_on_one_two_and_four_ranks(name: str, ranks: int) -> None:
    check_world_size(load_recipe(name), ranks)


def test_a_file_is_loaded_by_text_or_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(load_recipe("small")), encoding="utf-8")
    assert load_recipe(file) == load_recipe(str(file)) == load_recipe("small")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("minuts104")
    assert "'minuts104'" in caught.value.what
    assert "did you mean minutes104?" in caught.value.hint


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "../small", "nothing.toml", "/nothing/here.toml"])
def test_a_name_or_path_of_nothing_is_one_clear_error(name: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(name)


def test_files_that_hold_no_recipe(tmp_path: Path) -> None:
    bad = {"empty": b"", "binary": b"\xff\xfe\x00", "cut": b'name = "x"\nphases = [', "deep": b"a = " + b"[" * 100_000}
    for name, content in bad.items():
        file = tmp_path / f"{name}.toml"
        file.write_bytes(content)
        with pytest.raises(RecipeError, match=name):
            load_recipe(file)
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(tmp_path / ".")
