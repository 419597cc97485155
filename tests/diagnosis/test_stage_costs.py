"""Where a step's time goes is measured in one place; `plan`, `doctor RECIPE` and `bench train` tell of it alike."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.diagnosis import bench_step, calibrations, doctor, planning, stage_costs
from imagesprint.diagnosis.stage_costs import LoadingSpeed, TrainingCosts, measure_costs
from imagesprint.diagnosis.step_timing import TimedTraining
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import open_ranks


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STEP_SECONDS", "LOADING_SECONDS", "EVALUATION_SECONDS"):
        monkeypatch.setattr(stage_costs, name, 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_three_commands_name_the_same_step_time(
    tiny_recipe: Recipe, photo_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[TrainingCosts] = []

    def once(*args: Any, **asked: Any) -> TrainingCosts:
        measured.append(measured[0] if measured else measure_costs(*args, **asked))
        return measured[0]

    for module in (planning, doctor, bench_step):
        monkeypatch.setattr(module, "measure_costs", once)
    Path("tiny.toml").write_text(to_toml(tiny_recipe))

    def said(*words: str) -> Any:
        assert main([*words, "tiny.toml", "--data", str(photo_root), "--device", "cpu", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["phases"]

    plan, diagnosis, bench = said("plan"), said("doctor"), said("bench", "train")
    assert len(measured) == 3
    steps = [costs.step for costs in measured[0].phases]
    assert len(set(steps)) == 2
    assert [row["seconds"] / row["steps"] for row in plan] == pytest.approx(steps)
    assert [row["figures"]["step"] for row in diagnosis] == pytest.approx(steps)
    assert [row["batch_size"] / row["images_per_second"] for row in bench] == pytest.approx(steps)
    # So it is with what the parts of a step need alone.
    assert [row["seconds_by_stage"]["data"] for row in plan] == [row["figures"]["load"] for row in diagnosis]
    on_noise = [row["alone"]["step"] for row in diagnosis]
    assert [row["batch_size"] / row["synthetic_images_per_second"] for row in bench] == pytest.approx(on_noise)


def measured(recipe: Recipe, root: Path, **asked: Any) -> TrainingCosts:
    opened = open_root(root)
    with open_ranks("cpu") as ranks:
        training = TimedTraining(recipe, len(opened.classes), ranks, "off")
        return measure_costs(training, opened, Console(quiet=True), **asked)


def test_phases_of_one_kind_are_measured_once(tiny_recipe: Recipe, photo_root: Path) -> None:
    first, second = tiny_recipe.phases
    again = replace(first, epochs=(8, 9), lr=(0.1, 0.0))
    costs = measured(replace(tiny_recipe, phases=(first, second, again)), photo_root, steps=2)
    assert [kind.together.phase for kind in costs.kinds] == [0, 1]
    assert costs.phases[2] is costs.phases[0]
    assert costs.phases[0].loaders == ()
    assert (costs.evaluation, costs.checkpoint.size) == (0.0, 0)  # which were not asked for
    with_loaders = replace(costs.phases[1], loaders=(LoadingSpeed(1, 0.1, {"jpeg": 1.0}),))
    costs = replace(costs, phases=(costs.phases[0], with_loaders, costs.phases[2]))
    assert calibrations._costs(json.loads(json.dumps(asdict(costs)))) == costs  # as it is kept


def test_a_long_step_is_measured_by_its_micro_batches(
    tiny_recipe: Recipe, photo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = replace(tiny_recipe.phases[0], batch_size=16, micro_batch=4)
    recipe = replace(tiny_recipe, phases=(phase,))
    whole = measured(recipe, photo_root, steps=3).phases[0]
    monkeypatch.setattr(stage_costs, "STEP_SECONDS", 1e-6)
    parts = measured(recipe, photo_root).phases[0]
    assert whole.together.steps == 3
    assert parts.together.steps == pytest.approx(1 / 4)
    assert parts.together.figures.images == pytest.approx(16)
    assert 0.2 < parts.step / whole.step < 5  # a whole step's time, not that of a part
