"""Recipes by name or by file, and what differs between two of them."""

import importlib
import os.path
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from imagesprint.errors import RecipeError
from imagesprint.recipes.recipe import Phase, Recipe, did_you_mean, kinds
from imagesprint.recipes.serialization import from_toml
from imagesprint.recipes.validation import validate


@dataclass(frozen=True)
class Difference:
    """One key and what each recipe has there.

    `phases` stands for the number of rows, `phases.4` for a row that one recipe lacks (None there, a Phase in
    the other).
    """

    key: str
    a: Any
    b: Any


def differences(a: Recipe, b: Recipe) -> list[Difference]:
    """Every difference, in the order of the fields; empty exactly where `a == b`."""
    found = _differences(a, b, "")
    if len(a.phases) != len(b.phases):
        found.append(Difference("phases", len(a.phases), len(b.phases)))
    for index in range(max(len(a.phases), len(b.phases))):
        row_a = a.phases[index] if index < len(a.phases) else None
        row_b = b.phases[index] if index < len(b.phases) else None
        if row_a is None or row_b is None:
            found.append(Difference(f"phases.{index}", row_a, row_b))
        else:
            found += _differences(row_a, row_b, f"phases.{index}.")
    return found


def _differences(a: Recipe | Phase, b: Recipe | Phase, prefix: str) -> list[Difference]:
    pairs = ((name, getattr(a, name), getattr(b, name)) for name in kinds(type(a)))
    return [Difference(prefix + name, in_a, in_b) for name, in_a, in_b in pairs if in_a != in_b]


_BUILTIN = (
    *("demo", "probe", "finetune", "small", "sprint", "minutes104", "long", "baseline90", "classic"),
    "small-2026-11",
)


def builtin_names() -> tuple[str, ...]:
    """The names of the built-in recipes, from the quickest to the longest, and those kept for comparison."""
    return _BUILTIN


def builtin_notes(name: str) -> str:
    """What the built-in recipe `name` says of itself: purpose, command, time and accuracy; a text of some lines."""
    return (_module(name).__doc__ or "").strip()


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"imagesprint.recipes.builtin.{name.replace('-', '_')}")


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The validated built-in recipe of that name, or the one in that .toml file.

    Raises RecipeError where there is neither, or the file holds no sound recipe.
    """
    name = str(name_or_path)
    if name in _BUILTIN and not isinstance(name_or_path, Path):
        recipe: Recipe = _module(name).RECIPE
        validate(recipe)
        return recipe
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1 or os.path.isfile(path):
        return from_toml(_read(path), name)
    suggestion = did_you_mean(name, _BUILTIN)
    listing = "`imagesprint recipes list` names all; a recipe of your own ends in .toml"
    raise RecipeError(f"unknown recipe {name!r}", f"{suggestion} {listing}".strip())


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe {path}: {error.strerror}",
            "`imagesprint recipes show small --toml > my.toml` writes one to start from",
        ) from None
    except ValueError:  # not UTF-8, or a path with a zero byte
        raise RecipeError(f"{path}: not a text file in UTF-8", "save it as UTF-8") from None
