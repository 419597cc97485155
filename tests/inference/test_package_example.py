"""The example in the package's docstring, which begins docs/reference.md, runs as it is shown."""

import os
import re
from pathlib import Path

import pytest

import imagesprint


def test_the_example_runs(
    digit_root: Path,
    digit_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.symlink(digit_root, tmp_path / "data")
    os.symlink(digit_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"^ {4}(.*)", imagesprint.__doc__ or "", re.MULTILINE)), {})
    assert capsys.readouterr().out.strip() in {"zero", "one", "two"}
