"""Templates: files that a person can read and copy, with {{ names }} where values go."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

# Of a tuple each element, in a line of its own; None where it is not known.
Value = str | int | tuple[str, ...] | None

_NAME: Final = re.compile(r"\{\{ (\w+) \}\}")


def fill(template: str, values: Mapping[str, Value]) -> str:
    """Return the text of the file `template` with `values` in their places.

    A line with a tuple stands there once for each element; one with a value that is None, or an empty tuple, does not.
    A line has one tuple at the most. Raises KeyError for a name that has no value.
    """
    text = files("imagesprint.launching").joinpath(f"templates/{template}").read_text(encoding="utf-8")
    return "".join(filled for line in text.splitlines(keepends=True) for filled in _fill_line(line, values))


def _fill_line(line: str, values: Mapping[str, Value]) -> list[str]:
    found = {name: values[name] for name in _NAME.findall(line)}
    if None in found.values():
        return []
    several = next((name for name, value in found.items() if isinstance(value, tuple)), None)
    if several is None:
        return [_NAME.sub(lambda match: str(found[match[1]]), line)]
    elements = found[several]
    assert isinstance(elements, tuple)
    return [filled for element in elements for filled in _fill_line(line, {**values, several: element})]
