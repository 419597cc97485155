"""How verbs print results: one JSON value, or text with aligned columns, on standard output."""

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def show(args: argparse.Namespace, value: Any, text: str) -> None:
    """Print a verb's result: `value` as one JSON value with --json, else `text`."""
    output = to_json(value) if args.json else text
    # A file's name need not be text: what the output cannot carry is shown as an escape.
    encoding = sys.stdout.encoding or "utf-8"
    print(output.encode(encoding, "backslashreplace").decode(encoding))


def to_json(value: Any) -> str:
    """`value` as strict JSON on one line, in ASCII, so that it is valid in every locale and for every file name.

    Dataclasses become objects, paths text, numbers that are not finite null.
    """
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns two spaces apart under `header`; columns that hold only numbers stand to the right."""
    cells = [list(header), *([_cell(item) for item in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = (
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(item: object) -> str:
    return f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else str(item)
