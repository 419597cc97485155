"""`make gpu-check` in small slices: what a part can come to, the report, the losses, and what stands in for a library.

The whole is rehearsed by `make gpu-check DEVICE=cpu`, which takes a minute.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch

from imagesprint.cli.main import main
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import Ranks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_a_part_that_fails_is_reported_and_the_others_count(tmp_path: Path) -> None:
    check, report = importlib.import_module("gpu_check"), importlib.import_module("gpu_check_report")

    def outcome(code: str, missing: str = "", limit: float = 20) -> Any:
        return check.run(check.Part("some part", (sys.executable, "-c", code), missing), limit)

    done = outcome("")
    failed = outcome("raise SystemExit('it broke')")
    late = outcome("import time; time.sleep(9)", limit=0.2)
    left = outcome("", missing="there is no GPU")
    assert [each.status for each in (done, failed, late, left)] == ["done", "failed", "failed", "left out"]
    about = {"begun": "today", "device": "cpu", "system": "Linux", "commit": "abc", "missing": ["pytest"]}
    report.write_report(tmp_path, about, [vars(each) for each in (done, failed, late, left)])
    text = (tmp_path / "report.md").read_text()
    for said in (
        "it broke",
        "it took more than 0 s",
        "there is no GPU",
        "Not installed: pytest",
        "say nothing of any GPU",
    ):
        assert said in text
    assert [part["status"] for part in json.loads((tmp_path / "report.json").read_text())["parts"]][1] == "failed"


def test_the_report_shows_what_the_benches_print(
    photo_root: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = importlib.import_module("gpu_check_report")
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe))
    words = [str(tmp_path / "tiny.toml"), "--device", "cpu", "--steps", "1", "--json"]
    outcomes = []
    for name, *more in (("step", "--num-train", "320"), ("train", "--data", str(photo_root))):
        assert main(["bench", name, *words, *more]) == 0
        result = json.loads(capsys.readouterr().out)
        outcomes.append({"name": name, "status": "done", "seconds": 1.0, "command": "", "said": "", "result": result})
    variants = [{**row, "variant": "fused"} for row in outcomes[0]["result"]["phases"][:1]]
    step = {**outcomes[0]["result"], "variants": variants, "left_out": {"eager": "it was not asked for"}}
    outcomes.append({**outcomes[0], "result": step})
    about = {"begun": "today", "device": "cuda", "system": "Linux", "commit": "abc", "missing": []}
    report.write_report(tmp_path, about, outcomes)
    text = (tmp_path / "report.md").read_text()
    assert text.count("\n| 16 | 16 = 4 × 4 | ") == text.count("\n| 20 | 16 = 4 × 4 | ") + 1 == 4
    assert text.count("\n| 16 | 16 = 4 × 4 | fused | ") == text.count("eager is left out: it was not asked for") == 1
    assert text.count("Derived: ") == 1
    assert "rehearsal" not in text


def test_losses_of_the_same_training_are_the_same_and_of_others_apart(photo_root: Path, tiny_recipe: Recipe) -> None:
    losses = importlib.import_module("losses")
    root, alone = open_root(photo_root), Ranks(0, 1, 0, 1, torch.device("cpu"))
    recipe = losses.shorten(tiny_recipe, 3)
    found = {name: losses.train(recipe, run, root, alone) for name, run in losses.RUNS.items()}
    assert found["reference"] == losses.train(recipe, losses.Run(), root, alone)
    assert found["seed 1"] != pytest.approx(found["reference"], rel=1e-4)
    judged = losses.compare({**found, "fast": [1.0, 2.0, 90.0]})
    assert not judged["agrees"]
    assert judged["distances"]["fast"] > judged["spread"] > 0
    assert judged["distances"]["reference"] == 0


def test_the_spread_is_the_smallest_between_two_slow_runs() -> None:
    losses = importlib.import_module("losses")
    slow = {"reference": [3.0] * 40, "seed 1": [3.0] * 20 + [3.5] * 20, "seed 2": [3.0] * 20 + [3.6] * 20}
    for last, agrees in ((3.09, True), (3.11, False)):  # the seeds are 0.1 apart there
        judged = losses.compare({**slow, "fast": [3.0] * 20 + [last] * 20})
        assert judged["agrees"] is agrees
        assert judged["spread"] == pytest.approx(0.1 / 2**0.5)


def test_the_stand_in_computes_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "google_crc32c"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(BENCHMARKS / "stand_ins")
    stand_in = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    data = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    assert stand_in.__file__ != google_crc32c.__file__
    assert stand_in.value(data) == google_crc32c.value(data)
    assert stand_in.extend(stand_in.value(data[:99]), data[99:]) == google_crc32c.value(data)
