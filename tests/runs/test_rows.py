import json
from dataclasses import asdict
from pathlib import Path

import pytest

from imagesprint.errors import RunError
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import Interruption, PartTime, PlanComparison, RunResult, of_classes

PLAN = PlanComparison("measured", 60.0, 66.5, (PartTime("start-up", 1, 5.0, 6.5), PartTime("phase 0", 55, 55.0, 60.0)))
RESULT = RunResult(55, 5.0, 98.0, 66.5, interruptions=(Interruption("killed", 8),), plan=PLAN)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_result(RESULT)
    assert run.result() == RESULT
    assert json.loads(run.result_file.read_text())["plan"] == {
        "origin": "measured",
        "planned_seconds": 60.0,
        "seconds": 66.5,
        "parts": [
            {"part": "start-up", "count": 1, "planned_seconds": 5.0, "seconds": 6.5},
            {"part": "phase 0", "count": 55, "planned_seconds": 55.0, "seconds": 60.0},
        ],
    }


def test_what_is_wrong_in_it_is_named(tmp_path: Path) -> None:
    content = json.loads(json.dumps(asdict(RESULT)))
    content["plan"]["parts"][1]["count"] = "many"
    run = RunDirectory(tmp_path)
    run.result_file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"plan\.parts\.1\.count: expected a whole number, found 'many'"):
        run.result()


def test_the_mean_of_classes_is_told_where_it_says_something() -> None:
    assert of_classes(81.904, 75.0) == ", mean of classes 75.00%"
    assert of_classes(81.904, 81.9) == ""  # to two digits
    assert of_classes(81.904, None) == ""  # of an earlier version
