"""The demo, from the digits to the report."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_the_whole_way(imagesprint: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = imagesprint("demo", "--output", folder, "--json")
    assert done.code == 0, done.stderr
    assert done.json["top1"] >= 97
    assert Path(done.json["report"]).is_file()
    assert Path(done.json["checkpoint"]).is_file()
    assert {path.name for path in (folder / "run" / "plots").iterdir()} == {"loss.png", "lr.png", "accuracy.png"}
    assert len(list((folder / "images").rglob("*.png"))) == 1797
    again = imagesprint("demo", "--output", folder)
    assert again.code == 0
    assert "nothing to do" in again.stderr
    program, *words = shlex.split(again.stdout.splitlines()[-1])
    assert shutil.which(program) is not None
    assert words == ["serve", str(folder / "run")]


@pytest.mark.parametrize("kind", ["file", "other"])
def test_a_folder_that_holds_something_else_is_left_alone(
    imagesprint: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "output"
    if kind == "file":
        output.write_text("keep me")
    else:
        output.mkdir()
        (output / "thesis.txt").write_text("keep me")
    before = sorted(tmp_path.rglob("*"))
    done = imagesprint("demo", "--output", output)
    assert done.code == 2
    assert "error:" in done.stderr
    assert "hint:" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
