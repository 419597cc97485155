"""A recipe as text: TOML, plain types, and `--set KEY=VALUE`; TOML and plain types are exact both ways."""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeGuard

from imagesprint.console import UNPRINTABLE
from imagesprint.errors import RecipeError
from imagesprint.recipes.recipe import Phase, Recipe, from_plain, from_text, kinds, shown, unknown_key
from imagesprint.recipes.validation import validate

_Table = dict[str, Any]  # as TOML and JSON have it

_REQUIRED_OF_RECIPE = ("name",)
_REQUIRED_OF_PHASE = ("lr", "method", "batch_size", "micro_batch", "image_size")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe in str, int, float, bool, list and dict, `phases` last; a field that is None is left out."""
    result = _fields(recipe)
    result["phases"] = [_fields(phase) for phase in recipe.phases]
    return result


def _fields(table: Recipe | Phase) -> _Table:
    values = {name: getattr(table, name) for name in kinds(type(table))}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }


def from_dict(data: object, origin: str = "recipe") -> Recipe:
    """The validated recipe that `to_dict` gave; fields left out have their defaults.

    RecipeError names `origin` and what is wrong, whatever `data` is.
    """
    try:
        recipe = _recipe(data)
        validate(recipe)
    except RecipeError as error:
        raise RecipeError(f"{origin}: {error.what}", error.hint) from None
    return recipe


def _recipe(data: object) -> Recipe:
    if not _is_table(data):
        raise RecipeError(f"expected a table, found {shown(data)}", "give name = … and phases = […]")
    rows = data.get("phases", [])
    if not isinstance(rows, list) or not all(_is_table(row) for row in rows):
        raise RecipeError("phases: expected a list of rows", "write phases = [{ epochs = [0, 6], … }, …]")
    phases = []
    for index, row in enumerate(rows):
        where = f"phases.{index}"
        values = _values(Phase, row, f"{where}.", where, _REQUIRED_OF_PHASE)
        phases.append(Phase(**{"epochs": None, **values}))
    settings = {key: value for key, value in data.items() if key != "phases"}
    return Recipe(phases=tuple(phases), **_values(Recipe, settings, "", "recipe", _REQUIRED_OF_RECIPE))


def _is_table(value: object) -> TypeGuard[_Table]:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _values(
    table: type[Recipe] | type[Phase], data: _Table, prefix: str, where: str, required: tuple[str, ...]
) -> _Table:
    known = kinds(table)
    for key in data:
        if key not in known:
            raise unknown_key(key, known, where)
    for key in required:
        if key not in data:
            raise RecipeError(f"{where}: {key} is missing", f"give {prefix}{key}, {known[key]}")
    return {key: from_plain(known[key], value, prefix + key) for key, value in data.items()}


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML that reads as the table it is: one line a setting, one aligned line a phase."""
    data = to_dict(recipe)
    rows = [{key: f"{key} = {_cell(key, value)}" for key, value in row.items()} for row in data.pop("phases")]
    lines = [f"{key} = {_value(value)}" for key, value in data.items()]
    lines += ["phases = [", *(f"    {{ {line} }}," for line in _aligned(rows)), "]"]
    return "\n".join(lines) + "\n"


def _aligned(rows: list[dict[str, str]]) -> list[str]:
    keys = [key for key in kinds(Phase) if any(key in row for row in rows)]
    widths = {key: max(len(row.get(key, "")) for row in rows) for key in keys}
    lines = []
    for row in rows:
        # The comma stands at the value, the padding behind it; a cell that a row lacks takes no comma.
        cells = [f"{row[key]},".ljust(widths[key] + 1) for key in keys if key in row]
        lines.append(" ".join(cells).rstrip().removesuffix(","))
    return lines


def _cell(key: str, value: Any) -> str:
    return '"auto"' if kinds(Phase)[key].auto and value == 0 else _value(value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but it leaves DEL, which TOML wants escaped, and what a terminal could act on.
        return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    return repr(value)


def from_toml(text: str, origin: str) -> Recipe:
    """The validated recipe in the TOML `text`; RecipeError names `origin` (its file) and what is wrong."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{origin}: not valid TOML: {error}", "`imagesprint recipes show small --toml` shows how one looks"
        ) from None
    return from_dict(data, origin)


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
    return replace(recipe, **{key: from_text(kinds(Recipe)[key], text, key)})


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
    change = {name: from_text(kinds(Phase)[name], text, key)}
    phases = (
        replace(phase, **change) if row in ("*", number) else phase
        for number, phase in zip(rows, recipe.phases, strict=True)
    )
    return replace(recipe, phases=tuple(phases))
