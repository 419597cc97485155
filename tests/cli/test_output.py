"""Results as JSON and as tables."""

import argparse
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagesprint.cli.output import show, table, to_json


@dataclass
class Point:
    x: float
    where: Path


def test_json_is_strict() -> None:
    value = {"points": (Point(1.5, Path("a/é")), Point(float("nan"), Path("b"))), 3: None, "big": float("-inf")}
    expected = {"points": [{"x": 1.5, "where": "a/é"}, {"x": None, "where": "b"}], "3": None, "big": None}
    assert json.loads(to_json(value)) == expected
    assert "\n" not in to_json(value)


def test_what_has_no_json_form_is_a_bug() -> None:
    with pytest.raises(TypeError, match="object"):
        to_json({"x": object()})


def test_columns_of_numbers_stand_to_the_right() -> None:
    assert table(["name", "n"], [["a", 5], ["bcdef", 1234]]) == "name       n\na          5\nbcdef  1,234"
    assert table(["name", "n"], []) == "name  n"


NAME = os.fsdecode(b"caf\xe9.jpg")  # a file name that is no UTF-8


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("as_json", [True, False])
def test_any_file_name_can_be_printed(monkeypatch: pytest.MonkeyPatch, encoding: str, as_json: bool) -> None:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    show(argparse.Namespace(json=as_json), {"file": NAME, "text": "é…"}, f"{NAME} é…")
    sys.stdout.flush()
    if as_json:
        assert json.loads(data.getvalue().decode("utf-8")) == {"file": NAME, "text": "é…"}
    else:
        assert data.getvalue().startswith(rb"caf\udce9.jpg ")
