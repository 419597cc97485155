"""Recipes by name or by file."""

import importlib
import os.path
from pathlib import Path

from imagesprint.errors import RecipeError
from imagesprint.recipes.fields import did_you_mean
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import from_toml
from imagesprint.recipes.validation import validate

_BUILTIN = ("demo", "small", "minutes104", "baseline90", "classic")


def builtin_names() -> tuple[str, ...]:
    """The names of the built-in recipes, from the quickest to the longest."""
    return _BUILTIN


def builtin_notes(name: str) -> str:
    """What the built-in recipe `name` says of itself: purpose, command, time and accuracy; a text of some lines."""
    return (importlib.import_module(f"imagesprint.recipes.builtin.{name}").__doc__ or "").strip()


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The validated built-in recipe of that name, or the one in that .toml file.

    RecipeError where there is neither, or the file holds no sound recipe.
    """
    name = str(name_or_path)
    if name in _BUILTIN and not isinstance(name_or_path, Path):
        recipe: Recipe = importlib.import_module(f"imagesprint.recipes.builtin.{name}").RECIPE
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
