import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.cli.main import main
from imagesprint.measuring.doctor.accuracy_checks import accuracy_checks


def test_all_checks_of_a_run(write_run: Callable[..., Path], tmp_path: Path, photo_root: Path) -> None:
    run = write_run(tmp_path / "run", steps=8)
    names = [check.name for check in accuracy_checks(run, photo_root)]
    assert len(names) == len(set(names))
    assert {"labels", "evaluation size", "resolution", "norm statistics", "colours"} <= set(names)
    alone = [check.name for check in accuracy_checks(run, None)]
    assert "colours" not in alone
    assert "norm statistics" not in alone  # without a checkpoint nobody knows how many images there are


def test_doctor_of_a_run(
    write_run: Callable[..., Path], photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", steps=8)
    assert main(["doctor", str(run), "--data", str(photo_root), "--json"]) == 0
    assert {"labels", "colours"} <= {check["name"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert main(["doctor", str(tmp_path / "none")]) == 2
    assert "is neither a run nor a recipe" in capsys.readouterr().err
