"""What `plan` says hangs together, and `train` finds it again; how fast a machine is, no test says."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from imagesprint.cli.main import main
from imagesprint.diagnosis import stage_costs
from imagesprint.diagnosis.disturbance import Disturbance
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml

PHASE = {"steps", "images", "image_size", "batch_size", "freeze", "images_per_second", "seconds", "limited_by"}


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe; calibrations of it are quick, and kept in the test's own folder."""
    for name in ("STEP_SECONDS", "LOADING_SECONDS", "EVALUATION_SECONDS"):
        monkeypatch.setattr(stage_costs, name, 0.1)
    monkeypatch.setattr(Disturbance, "share", lambda _: 0.0)  # other tests may run beside it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(replace(tiny_recipe, augment=("pad 2", "cutmix 1"))))
    return path


def test_the_reference_s_speeds_give_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "minutes104", "--gpus", "8", "--gpu", "V100", "--price", "36"]
    assert main([*words, "--plot", str(tmp_path / "plot.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["total_seconds"] == pytest.approx(8109, rel=0.03)
    assert result["total_seconds"] == pytest.approx(sum(row["seconds"] for row in result["phases"]))
    assert result["cost"] == pytest.approx(result["total_seconds"] / 100)
    assert [row["images_per_second"] for row in result["phases"]] == pytest.approx([14200, 14200, 4800, 4130, 2650])
    assert all(set(row) == PHASE | {"source", "derived"} and row["derived"] is None for row in result["phases"])
    assert result["num_train"] == 1_281_167
    assert [row["steps"] for row in result["phases"]] == [1296, 3240, 6875, 3268, 5004]
    assert result["evaluations"]["count"] == result["checkpoints"]["count"] == 40
    assert result["checkpoints"]["bytes"] == pytest.approx(205e6, rel=0.01)
    reached = {point["top1"]: point["seconds"] for point in result["accuracies"]}
    assert list(reached) == [50.6, 72.8, 75.56]
    assert reached[75.56] == pytest.approx(6273, rel=0.03)  # as the reference took
    with Image.open(tmp_path / "plot.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # something is drawn
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "in all      2:13:" in text
    assert text.count("published\n") == 5
    assert max(map(len, text.splitlines())) <= 100


def test_derived_speeds_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "minutes104", "--gpus", "4", "--gpu", "h200", "--num-train", "1281167"]
    assert main([*words, "--json"]) == 0
    first, _, second, *_ = json.loads(capsys.readouterr().out)["phases"]
    assert second["derived"] == "4/8 of the GPUs"
    assert second["images_per_second"] == pytest.approx(4 * 7950)
    assert first["derived"].startswith("4/8 of the GPUs, ")
    assert first["derived"].endswith(" instead of 24.3 GFLOP an image")
    # A little more than by pixels: the head works once an image.
    assert first["images_per_second"] / second["images_per_second"] == pytest.approx((224 / 128) ** 2, rel=0.02)
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "MLPerf" in text
    assert "            derived for phase 2: 4/8 of the GPUs\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_sprint_takes_nine_minutes_at_most_by_the_published_speed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "sprint", "--gpus", "8", "--gpu", "h100", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_train"] == 1_281_167
    assert plan["total_seconds"] <= 9 * 60
    assert all("MLPerf" in phase["source"] and "GFLOP" in phase["derived"] for phase in plan["phases"])


def test_a_calibration_is_kept_and_train_finds_it(
    tiny: Path, photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(tiny), "--data", str(photo_root)]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["calibration"]["is_new"]
    assert Path(result["calibration"]["file"]).is_relative_to(tmp_path / "cache" / "imagesprint")
    assert [row["image_size"] for row in result["phases"]] == [16, 20]
    for row in result["phases"]:
        assert set(row) == PHASE | {"memory", "seconds_by_stage", "loading_cost"}
        assert row["seconds"] == pytest.approx(row["images"] / row["images_per_second"])
        assert row["limited_by"] in ("data", "compute")  # one rank on a CPU copies and reduces nothing
        assert row["memory"] > 10e6
    parts = [result["start_up_seconds"], *(row["seconds"] for row in result["phases"])]
    parts += [result[key]["seconds"] for key in ("evaluations", "checkpoints")]
    assert min(parts) > 0
    assert result["total_seconds"] == pytest.approx(sum(parts))
    assert (result["evaluations"]["count"], result["checkpoints"]["count"]) == (2, 8)

    assert main([*words, "--set", "seed=3", "--json"]) == 0  # which changes no speed
    again = json.loads(capsys.readouterr().out)
    assert not again["calibration"]["is_new"]
    assert again["total_seconds"] == result["total_seconds"]
    assert main(words) == 0
    assert f"delete\n            {result['calibration']['file']}" in capsys.readouterr().out

    assert main(["train", *words[1:], "--output", str(tmp_path / "run"), "--json"]) == 0
    said = capsys.readouterr()
    assert "calibrated on this machine on 20" in said.err
    plan = json.loads(said.out)["plan"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["plan"] == plan
    assert plan["planned_seconds"] == pytest.approx(result["total_seconds"])
    names = ["start-up", "phase 0", "phase 1", "evaluations", "checkpoints", "rest"]
    assert [part["part"] for part in plan["parts"]] == names
    assert plan["seconds"] == pytest.approx(sum(part["seconds"] for part in plan["parts"]), abs=0.01)

    file = Path(result["calibration"]["file"])
    file.write_text('{"made": "2026-11-21", "calibration": {}}')  # damaged: it is made again, in its place
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["is_new"]
    assert list(file.parent.iterdir()) == [file]


def test_features_that_are_made_once_are_measured(
    tiny: Path, photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["features_once=true", "augment=", "flip=false", "crop=center", "phases.*.freeze=backbone"]
    changes += ["phases.*.image_size=16", "phases.*.source=32"]
    words = [str(tiny), "--data", str(photo_root), *(word for change in changes for word in ("--set", change))]
    assert main(["plan", *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["features_seconds"] < result["start_up_seconds"]
    assert [row["loading_cost"] for row in result["phases"]] == [None, None]
    parts = [result["start_up_seconds"], *(row["seconds"] for row in result["phases"])]
    parts += [result[key]["seconds"] for key in ("evaluations", "checkpoints")]
    assert result["total_seconds"] == pytest.approx(sum(parts))
    assert main(["plan", *words]) == 0
    text = capsys.readouterr().out
    assert f"of which {result['features_seconds']:.1f} s for features" in text
    assert text.count("  backbone  ") == 2
    assert main(["train", *words, "--output", str(tmp_path / "run"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["planned_seconds"] == pytest.approx(result["total_seconds"])
    assert plan["parts"][0]["planned_seconds"] == pytest.approx(result["start_up_seconds"])
    for verb in ("doctor", "bench step", "bench train"):
        data = [] if verb == "bench step" else words[1:3]
        assert main([*verb.split(), words[0], *data, *words[3:]]) == 2
        assert "error: tiny has features once: nearly all of its time goes to making them" in capsys.readouterr().err
    assert main(["plan", words[0], *words[3:], "--gpus", "8", "--gpu", "h200", "--num-train", "99"]) == 2
    assert "error: tiny has features once: how fast they are made" in capsys.readouterr().err


def test_ranks_are_calibrated_together(tiny: Path, photo_root: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from imagesprint.diagnosis import stage_costs as costs\n"
        "from imagesprint.cli.main import main\n"
        "costs.STEP_SECONDS = costs.EVALUATION_SECONDS = costs.LOADING_SECONDS = 0.1; sys.exit(main())"
    )
    words = [sys.executable, "-c", code, "plan", str(tiny), "--data", str(photo_root), "--json"]
    ranks = []
    for rank in range(2):
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "IMAGESPRINT_STORE": f"{tmp_path}/store",
        }
        ranks.append(subprocess.Popen(words, env=os.environ | place, stdout=subprocess.PIPE, text=True))
    printed = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert printed[1] == ""
    result = json.loads(printed[0])
    assert result["ranks"] == 2
    assert min(row["seconds_by_stage"]["reduction"] for row in result["phases"]) > 0


def test_errors(tiny: Path, photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: object) -> str:
        assert main(["plan", *map(str, words)]) == 2
        return capsys.readouterr().err

    elsewhere = ("--gpus", 8, "--gpu", "h200")
    assert said(tiny).startswith("error: there is nothing to measure without --data ROOT\nhint: give it, or name ")
    unknown = said("minutes104", "--gpus", 8, "--gpu", "k80")
    assert unknown == "error: --gpu k80: no speeds of it are known\nhint: choose one of a100, h100, h200, v100\n"
    assert said("minutes104", "--gpus", 8).startswith("error: --gpu and --gpus belong together")
    assert said("minutes104", "--gpu", "h200").startswith("error: --gpu and --gpus belong together")
    both = said("minutes104", *elsewhere, "--processes", 2)
    assert both.startswith("error: --processes 2 and --gpus 8 exclude each other")
    assert said("minutes104", "--gpus", 3, "--gpu", "h200").startswith("error: 3 ranks cannot share the 8 micro-b")
    assert said("small", "--gpus", 4, "--gpu", "h200").startswith("error: on how many images small is to be trained")
    assert said("minutes104", *elsewhere, "--price", "-1").startswith("error: argument --price: '-1' is no price")
    assert said("minutes104", *elsewhere, "--price", "nan").startswith("error: argument --price: 'nan' is no price")
    assert said(tiny, "--data", photo_root, "--num-train", 5).startswith("error: --data and --num-train exclude each")
    assert said(tiny, "--data", tmp_path / "no").startswith("error: ")
    assert said("minutes104", *elsewhere, "--plot", tmp_path / "no" / "plot.png").startswith("error: cannot write ")
