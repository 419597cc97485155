"""The fields of a recipe and their types, read off the dataclasses: what .toml files, `--set` and checks share."""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from imagesprint.errors import RecipeError
from imagesprint.recipes.recipe import Phase, Recipe

_ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_MANY = {int: "whole numbers", float: "numbers"}
_BOOLS = {"true": True, "false": False}
_BITS = 64  # of TOML's integers, with their sign
_SHOWN = 80  # characters


@dataclass(frozen=True)
class Kind:
    """The type of one field: `base` is int, float, bool or str; `length` is 0 for one value, else a tuple's.

    `auto`: the word auto may be written for 0.
    """

    base: type
    length: int = 0
    optional: bool = False
    auto: bool = False

    def __str__(self) -> str:
        if not self.length:
            return _ONE[self.base] + (" or auto" if self.auto else "")
        return f"a list of {self.length} {_MANY[self.base]}"


def _kind(hint: Any) -> Kind:
    if isinstance(hint, types.UnionType):
        inner = _kind(next(arg for arg in typing.get_args(hint) if arg is not types.NoneType))
        return Kind(inner.base, inner.length, optional=True)
    items = typing.get_args(hint)
    return Kind(items[0], len(items)) if items else Kind(hint)


_KINDS = {
    table: {
        field.name: dataclasses.replace(_kind(hints[field.name]), auto=field.metadata.get("auto", False))
        for field in dataclasses.fields(table)
        if field.name != "phases"
    }
    for table, hints in ((table, typing.get_type_hints(table)) for table in (Recipe, Phase))
}


def kinds(table: type[Recipe] | type[Phase]) -> dict[str, Kind]:
    """The settable fields of `table` in their order; a recipe's `phases` are not among them."""
    return _KINDS[table]


def from_plain(kind: Kind, value: object, where: str) -> Any:
    """`value` (None, int, float, bool, str, or a list or tuple of them) as the field holds it.

    A whole number does for a float, nothing else is converted; RecipeError names `where` and the value.
    """
    if value is None and kind.optional:
        return None
    if not kind.length:
        return _scalar(kind, value, value, where)
    if not isinstance(value, list | tuple) or len(value) != kind.length:
        raise _wrong_type(kind, value, where)
    return tuple(_scalar(kind, item, value, where) for item in value)


def _scalar(kind: Kind, item: object, value: object, where: str) -> Any:
    if kind.auto and type(item) is str and item == "auto":
        return 0
    if type(item) is int and kind.base in (int, float) and item.bit_length() < _BITS:
        return kind.base(item)
    if type(item) is not kind.base or kind.base is int:
        raise _wrong_type(kind, value, where)
    return item


def from_text(kind: Kind, text: str, where: str) -> Any:
    """The value that a person wrote as `text`, such as `0.1`, `true`, `[0, 6]` or `0,6`."""
    text = text.strip()
    if kind.optional and text.lower() == "none":
        return None
    if kind.base is str or (kind.auto and text == "auto"):
        return from_plain(kind, text, where)
    items = text.strip("[]()").split(",") if kind.length else [text]
    try:
        values = [_BOOLS[item.strip().lower()] if kind.base is bool else kind.base(item.strip()) for item in items]
    except (ValueError, KeyError):
        raise _wrong_type(kind, text, where) from None
    return from_plain(kind, values if kind.length else values[0], where)


def _wrong_type(kind: Kind, value: object, where: str) -> RecipeError:
    example = {0: "", 2: ", such as [0, 6]", 3: ", such as [128, 128, 128]"}[kind.length]
    return RecipeError(f"{where}: expected {kind}, found {shown(value)}", f"give {kind}{example}")


def shown(value: object) -> str:
    """`value`, whatever it is, in a few words for a message."""
    if type(value) is int and value.bit_length() >= _BITS:  # Python does not write out the largest
        return f"a number of {value.bit_length()} bits"
    return value[:_SHOWN] if isinstance(value, str) and value else reprlib.repr(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean NAME?` with the nearest of `known`, or an empty text where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def unknown_key(key: str, known: Iterable[str], where: str) -> RecipeError:
    """The error for a key that no field has; its hint suggests the nearest or lists all."""
    names = list(known)
    return RecipeError(
        f"{where}: unknown key {shown(key)!r}", did_you_mean(key, names) or f"the keys are {', '.join(names)}"
    )
