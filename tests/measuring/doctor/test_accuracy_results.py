from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.measuring.doctor.accuracy_results import result_checks
from imagesprint.measuring.doctor.check import FAILURE, OK, WARNING, Check
from imagesprint.measuring.reporting.run_record import RunRecord
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.rows import EvaluationRow, MetricsRow, RunResult

CLASSES = [f"class{number}" for number in range(10)]
LAST = MetricsRow(32, 8.0, 1, 1, 1, 0, 90.0, 100.0, 0.01, 16, 20, 100.0, 0, seconds=10.0)
DONE = RunResult(32, 8.0, 100.0, 10.0)


@pytest.fixture
def make(tiny_recipe: Recipe) -> Any:
    """Makes a finished run of 10 classes that is well, but for what is given."""

    def made(**changes: Any) -> dict[str, Check]:
        evaluation = EvaluationRow(32, 8.0, 60, changes.pop("evaluated", 88.0), 100.0, 1.0, None)
        parts: dict[str, Any] = {
            "path": Path("run"),
            "recipe": tiny_recipe,
            "metrics": [LAST],
            "evaluations": [evaluation],
            "result": DONE,
            "checkpoint": {"classes": CLASSES},
            "judged": [],
            "log": [],
            "remarks": [],
        }
        checks = result_checks(RunRecord(**(parts | changes)), Schedule(tiny_recipe, 70))
        assert all(check.hint for check in checks if check.status != OK)
        return {check.name: check for check in checks}

    return made


def confused(shift: int, count: int = 5) -> dict[str, Any]:
    """What `evaluate` keeps where every class but one is taken for the one `shift` further on."""
    rows = [
        {"class": name, "taken_for": CLASSES[3 if number == 6 else number + shift], "count": count}
        for number, name in enumerate(CLASSES)
        if 0 <= number + shift < len(CLASSES)
    ]
    return {"num_images": 60, "top1": 8.0, "details": {"confusions": rows}}


def test_a_run_that_is_well(make: Any) -> None:
    assert {check.status for check in make().values()} == {OK}
    assert make()["finished"].detail == "all 32 steps are done"


def test_a_run_that_is_not_finished(make: Any) -> None:
    found = make(result=None)["finished"]
    assert (found.status, found.detail) == (WARNING, "32 of 32 steps are done, at learning rate 0.01")


@pytest.mark.parametrize("shift", [1, -1])
def test_labels_that_are_off_by_one(shift: int, make: Any) -> None:
    found = make(evaluated=8.0, judged=[confused(shift)])["labels"]
    assert found.status == FAILURE
    assert found.detail == (
        "top-1 90.0% in training, 8.0% in evaluation, 10.0% by chance; most mistakes are 1 class away"
    )
    assert "off by 1" in found.hint


def test_mistakes_without_a_pattern_are_no_shift(make: Any) -> None:
    judged = confused(1)
    for number, row in enumerate(judged["details"]["confusions"]):
        row["taken_for"] = CLASSES[(number * 7) % 10]
    found = make(evaluated=8.0, judged=[judged])["labels"]
    assert (found.status, "--recalibrate" in found.hint) == (WARNING, True)
    assert make(evaluated=8.0, judged=[confused(1, count=1)])["labels"].status == WARNING  # too few to tell


def test_a_run_that_learns_little_has_no_wrong_labels(make: Any) -> None:
    row = replace(LAST, top1=25.0)
    assert make(metrics=[row], evaluated=10.0)["labels"].status == OK
    assert make(evaluations=[])["labels"].detail == "nothing was evaluated and saved yet"


def test_bad_records(make: Any) -> None:
    many = make(result=replace(DONE, bad_records=5))["bad records"]
    assert (many.status, "5 times" in many.detail, "1,000 images" in many.detail) == (WARNING, True, True)
    assert make(result=replace(DONE, bad_records=1))["bad records"].status == OK


def test_overflows_are_a_matter_of_fp16(make: Any, tiny_recipe: Recipe) -> None:
    assert "overflows" not in make(result=replace(DONE, overflows=9))
    found = make(recipe=replace(tiny_recipe, precision="fp16"), result=replace(DONE, overflows=9))["overflows"]
    assert (found.status, "9 of 32 steps" in found.detail) == (WARNING, True)


def test_another_decoder(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    assert make(checkpoint={"classes": CLASSES, "decoder": "pillow"})["decoder"].status == OK
    found = make(checkpoint={"classes": CLASSES, "decoder": "native"})["decoder"]
    assert (found.status, "trained with native, evaluated here with pillow" in found.detail) == (WARNING, True)
