"""What differs between two recipes, in the keys of `--set`."""

from dataclasses import dataclass
from typing import Any

from imagesprint.recipes.fields import kinds
from imagesprint.recipes.recipe import Phase, Recipe


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
