"""A calibration says how much other processes disturbed it, and one that was disturbed too much is made again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.diagnosis import stage_costs
from imagesprint.diagnosis.calibrations import KeptCalibration, told
from imagesprint.diagnosis.disturbance import Disturbance
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import open_ranks
from imagesprint.training.micro_batch_size import settle_micro_batches

SPIN = (
    "import time, os; os.sched_setaffinity(0, {%d}); end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
)


def test_what_others_take_is_counted_and_what_is_ours_is_not() -> None:
    core = min(os.sched_getaffinity(0))
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # where, whoever else works, one process has half at most
    try:
        with open_ranks("cpu") as ranks:
            other = subprocess.Popen([sys.executable, "-c", SPIN % core])
            measured = Disturbance(ranks)
            other.wait()
            beside_another = measured.share()
    finally:
        os.sched_setaffinity(0, allowed)
    assert beside_another > 0.5  # this one waited


def test_a_disturbed_calibration_is_made_again_and_train_says_what_it_is(
    tiny_recipe: Recipe,
    photo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("STEP_SECONDS", "LOADING_SECONDS", "EVALUATION_SECONDS"):
        monkeypatch.setattr(stage_costs, name, 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(to_toml(tiny_recipe))
    words = [str(recipe), "--data", str(photo_root)]

    def plan(share: float) -> tuple[bool, float]:
        """Whether it measured, and the share that others had when what it goes by was measured."""
        monkeypatch.setattr(Disturbance, "share", lambda _: share)
        assert main(["plan", *words, "--json"]) == 0
        calibration = json.loads(capsys.readouterr().out)["calibration"]
        return calibration["is_new"], calibration["disturbance"]

    assert plan(0.43) == (True, 0.43)
    said = "while other processes used 43% of the cores: `imagesprint plan` measures again"
    assert main(["train", *words, "--output", str(tmp_path / "run"), "--stop-after", "1"]) == 0
    assert said in capsys.readouterr().err
    assert plan(0.02) == (True, 0.02)
    assert plan(0.6) == (False, 0.02)  # it is kept, and nothing was measured
    _check_that_of_two_the_less_disturbed_stays(tiny_recipe, photo_root, tmp_path)


def _check_that_of_two_the_less_disturbed_stays(recipe: Recipe, root: Path, folder: Path) -> None:
    with open_ranks("cpu") as ranks:
        settled = settle_micro_batches(recipe, None, open_root(root).classes, ranks, Console.silent())
        kept = KeptCalibration(settled, open_root(root), ranks, False)
    found = kept.read()
    assert found is not None
    worse, better = (replace(found[0], disturbance=share) for share in (0.3, 0.01))
    assert kept.keep(worse, Console.silent()) == found
    assert kept.keep(better, Console.silent()) == (better, found[1])
    assert kept.read() == (better, found[1])
    assert list((folder / "cache/imagesprint/calibrations").iterdir()) == [kept.path]
    assert "while other processes used 30% of the cores" in told(worse, "2026-11-29")
    assert told(better, "2026-11-29") == "calibrated on this machine on 2026-11-29"
