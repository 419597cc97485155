import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.cli.main import main
from imagesprint.diagnosis.accuracy import accuracy_checks, recipe_checks, resolution, result_checks, schedule_checks
from imagesprint.diagnosis.check import FAILURE, OK, WARNING, Check
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.records.dataset import open_root
from imagesprint.report.run_record import RunRecord, Saved
from imagesprint.runs.rows import EvaluationRow, MetricsRow, RunResult

IMAGENET = 1_281_167


def warnings(checks: list[Check]) -> dict[str, Check]:
    assert all(check.hint for check in checks if check.status == WARNING)
    return {check.name: check for check in checks if check.status == WARNING}


@pytest.mark.parametrize("name", ["demo", "small", "sprint", "minutes104", "long", "baseline90"])
def test_the_built_in_recipes_are_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert not warnings([*recipe_checks(recipe), resolution(recipe, None)])
    schedule = Schedule(recipe, {"demo": 1438, "small": 2930}.get(name, IMAGENET))
    assert not warnings(schedule_checks(recipe, schedule, schedule.total_steps))


@pytest.mark.parametrize("name", ["finetune", "probe"])
def test_of_pretrained_weights_only_what_is_so_is_told(name: str) -> None:
    recipe = load_recipe(name)
    checks = [*recipe_checks(recipe), *schedule_checks(recipe, Schedule(recipe, 2930), 10)]
    assert not warnings(checks)
    said = {check.name: check.detail for check in checks}
    assert said["zero init"] == "as the weights of init had it"
    assert said["strides"] == "those of efficientnet_lite0"
    assert said["batch norm"].startswith("all statistics stand still")
    assert said["norm statistics"] == "they stand still, as they were in the beginning"


def test_rates_of_other_optimizers_are_not_held_to_those_of_sgd() -> None:
    recipe = apply_overrides(load_recipe("baseline90"), ["name=mine", "optimizer=adamw", "nesterov=false"])
    recipe = replace(recipe, phases=tuple(replace(row, lr=(1e-4, 1e-4), method="constant") for row in recipe.phases))
    found = next(check for check in recipe_checks(recipe) if check.name == "learning rate")
    assert (found.status, found.detail.partition(":")[2][:20]) == (OK, " no rate of adamw is")


def test_what_classic_lacks_is_named() -> None:
    found = warnings(recipe_checks(load_recipe("classic")))
    assert list(found) == ["antialiasing", "zero init", "strides"]
    assert found["strides"].hint == "train anew with --set strides=v1.5"


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        (["eval_image_size=160"], "evaluation size", "objects are smaller than in training"),
        (["eval_resize=512", "eval_image_size=448"], "evaluation size", "objects are larger than in training"),
        (["crop=center", "eval_image_size=192"], "evaluation size", "trained at 224 px in the end, by centre crops"),
        (["phases.*.micro_batch=8"], "batch norm", "8 images or more"),
        (["phases.*.batch_size=1024"], "learning rate", "0.25 times that of baseline90"),
        (["phases.1.lr=1.0,1.0"], "learning rate", "10 times that of baseline90"),
        (["name=mine", "phases.1.lr=3.0,3.0"], "learning rate", "30 times 0.1 for 256 images"),
        (["phases.4.lr=0.01,0.01"], "last rate", "ends at 0.01, having been 0.1"),
    ],
)
def test_a_change_is_found(changes: list[str], name: str, said: str) -> None:
    found = warnings(recipe_checks(apply_overrides(load_recipe("baseline90"), changes)))
    assert list(found) == [name]
    assert said in found[name].detail


def test_a_rate_that_is_scaled_with_the_batch_is_no_finding() -> None:
    changes = ["phases.*.batch_size=512", "phases.0.lr=0.002,0.2", "phases.1.lr=0.2,0.2"]
    assert not warnings(recipe_checks(apply_overrides(load_recipe("baseline90"), changes)))


def test_a_rate_of_nothing() -> None:
    recipe = apply_overrides(load_recipe("small"), ["phases.*.lr=0,0"])
    assert "0 throughout" in warnings(recipe_checks(recipe))["learning rate"].detail


def test_other_sizes_are_suggested_where_evaluation_sees_what_training_saw() -> None:
    checks = {check.name: check for check in recipe_checks(load_recipe("baseline90"))}
    assert checks["evaluation size"].hint.endswith("--sizes 224,256,288")


def test_weight_decay_on_batch_norm_is_told() -> None:
    checks = {check.name: check for check in recipe_checks(load_recipe("classic"))}
    assert checks["weight decay"].detail == "0.0001, on batch norm and biases, too"
    assert "decay_norm_and_bias=false" in checks["weight decay"].hint


def test_statistics_and_averages_that_remember_the_beginning() -> None:
    recipe = replace(load_recipe("baseline90"), bn_momentum=0.0003, ema_decay=0.99999)
    schedule = Schedule(recipe, 25_600)  # 100 steps an epoch
    found = warnings(schedule_checks(recipe, schedule, schedule.total_steps))
    assert list(found) == ["norm statistics", "moving average"]
    assert found["norm statistics"].detail.startswith("74.1% is from before the last 1,000 steps")
    assert "--recalibrate" in found["norm statistics"].hint
    assert found["moving average"].detail.startswith("91.4% of it is how the network began")
    early = warnings(schedule_checks(load_recipe("baseline90"), schedule, 510))
    assert early["norm statistics"].detail.startswith("34.9% is from before the last 10 steps")


def test_epochs_that_leave_much_out() -> None:
    recipe = load_recipe("baseline90")
    found = warnings(schedule_checks(recipe, Schedule(recipe, 400), 90))
    assert found["epochs"].detail.startswith("at most 144 of 400 images")


def test_images_that_are_enlarged(photo_root: Path) -> None:
    recipe = load_recipe("small")
    assert resolution(replace(recipe, eval_resize=256), None).detail == (
        "evaluation with a shorter side of 256 px enlarges images of variant 160"
    )
    large = apply_overrides(recipe, ["phases.2.image_size=192"])
    found = resolution(large, None)
    assert (found.status, found.detail) == (WARNING, "phase 2 at 192 px enlarges images of variant 160")
    assert "--variants 192" in found.hint
    assert not warnings([resolution(large, open_root(photo_root))])  # it has full, which is taken


CLASSES = tuple(f"class{number}" for number in range(10))
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
            "checkpoint": Saved(classes=CLASSES),
            "judged": [],
            "commands": [],
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
    assert make(checkpoint=Saved(classes=CLASSES, decoder="pillow"))["decoder"].status == OK
    found = make(checkpoint=Saved(classes=CLASSES, decoder="native"))["decoder"]
    assert (found.status, "trained with native, evaluated here with pillow" in found.detail) == (WARNING, True)


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
    (row,) = load_recipe("probe").phases
    once = replace(load_recipe("probe"), phases=(row, replace(row, epochs=(20, 40))))
    assert main(["doctor", str(write_run(tmp_path / "once", 8, once)), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["bottleneck"], told["phases"]) == (None, [])
    assert any("nearly all of its time went to features" in check["detail"] for check in told["checks"])
    assert main(["doctor", str(tmp_path / "none")]) == 2
    assert "is neither a run nor a recipe" in capsys.readouterr().err
