"""Results as JSON and as tables."""

import argparse
import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagesprint.cli.output import show, table, to_json, write_csv
from imagesprint.console import width


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


NAME = os.fsdecode(b"\x1b[2Jcaf\xe9\n.jpg")  # a file's name: no UTF-8, and no line


@pytest.mark.parametrize("as_json", [True, False])
def test_any_file_name_can_be_printed(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    show(argparse.Namespace(json=as_json), {"file": NAME, "text": "é…"}, f"{NAME} é…")
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out) == {"file": NAME, "text": "é…"}
        assert out.isascii()
    else:
        assert out == "\\x1b[2Jcaf\\udce9\n.jpg é…\n"


def test_a_name_stays_in_its_cell() -> None:
    lines = table([NAME, "n"], [[NAME, 5], ["猫", 1234], ["e\u0301", 1]]).split("\n")
    assert len(lines) == 4
    assert lines[1].startswith(r"\x1b[2Jcaf\udce9\n.jpg ")
    assert {width(line) for line in lines} == {width(lines[0])}


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ('a,"b"\nc', r'a,"b"\nc'),
        ("猫=1", "猫=1"),
        (NAME, r"\x1b[2Jcaf\udce9\n.jpg"),
        (-0.5, "-0.5"),
        (-3, "-3"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula_and_numbers_stay_numbers(cell: object, written: str) -> None:
    file = io.StringIO()
    write_csv(file, ["a", "b"], [[cell, 1]])
    assert list(csv.reader(io.StringIO(file.getvalue()))) == [["a", "b"], [written, "1"]]
