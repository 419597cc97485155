"""`--set KEY=VALUE`: changes to a recipe from the command line."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from imagesprint.errors import RecipeError
from imagesprint.recipes.fields import from_text, kinds, unknown_key
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.validation import validate


def apply_overrides(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """The recipe with every `KEY=VALUE` applied in turn, then validated once.

    KEY is a field (`seed`), one row's (`phases.2.lr`) or every row's (`phases.*.micro_batch`); VALUE is read
    by the field's type. RecipeError for a key that does not exist, a value of another type, or a result that
    does not hold together.
    """
    for override in overrides:
        recipe = _apply(recipe, override)
    validate(recipe)
    return recipe


def _apply(recipe: Recipe, override: str) -> Recipe:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"--set {override!r} is no KEY=VALUE", "write it as --set seed=3")
    if key == "phases" or key.startswith("phases."):
        return _apply_to_rows(recipe, key, text)
    if key not in kinds(Recipe):
        if key in kinds(Phase):
            raise RecipeError(
                f"--set {key}: {key} belongs to the phases",
                f"--set 'phases.*.{key}={text}' sets it in every row, phases.0.{key} in the first",
            )
        raise unknown_key(key, kinds(Recipe), "--set")
    change: dict[str, Any] = {key: from_text(kinds(Recipe)[key], text, key)}
    return replace(recipe, **change)


def _apply_to_rows(recipe: Recipe, key: str, text: str) -> Recipe:
    parts = key.split(".")
    if len(parts) != 3:
        raise RecipeError(f"--set {key}: names no field of a row", "write it as phases.2.lr or 'phases.*.micro_batch'")
    _, row, name = parts
    if name not in kinds(Phase):
        raise unknown_key(name, kinds(Phase), f"--set {key}")
    rows = [str(index) for index in range(len(recipe.phases))]
    if row not in ("*", *rows):
        raise RecipeError(f"--set {key}: there is no row {row!r}", f"the rows are 0 to {len(rows) - 1}, or * for all")
    change: dict[str, Any] = {name: from_text(kinds(Phase)[name], text, key)}
    phases = (
        replace(phase, **change) if row in ("*", number) else phase
        for number, phase in zip(rows, recipe.phases, strict=True)
    )
    return replace(recipe, phases=tuple(phases))
