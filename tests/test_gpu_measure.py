"""What gpu_check.py measures, by its parts' own programs: steps, evaluation, losses; and the report of them."""

import argparse
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch

from imagesprint.cli.main import main
from imagesprint.images.native import is_available
from imagesprint.loading.batch import Batch
from imagesprint.model import fusing
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import Ranks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_the_report_shows_what_the_benches_print(
    photo_root: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, report = importlib.import_module("gpu_measure"), importlib.import_module("gpu_check_report")
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe))
    alone = Ranks(0, 1, 0, 1, torch.device("cpu"))
    settings = argparse.Namespace(variant="eager", pixels="20", steps=1)
    for what in measure.MEASURES.values():
        assert what(replace(tiny_recipe, precision="fp32"), alone, settings) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [value["bench"] for value in said] == ["machine"] * 2 + ["steps"] * 2 + ["evaluation"] * 2
    words = [str(tmp_path / "tiny.toml"), "--device", "cpu", "--steps", "1", "--json"]
    assert main(["bench", "train", *words, "--data", str(photo_root)]) == 0
    results = [said[1], said[3], said[5], json.loads(capsys.readouterr().out)]
    outcomes = [
        {"name": f"part {number}", "status": "done", "seconds": 1.0, "command": "", "said": "", "result": result}
        for number, result in enumerate(results)
    ]
    about = {"begun": "today", "device": "cuda", "system": "Linux", "commit": "abc", "source": "12", "cores": 2}
    report.write_report(tmp_path, {**about, "missing": []}, outcomes)
    text = (tmp_path / "report.md").read_text()
    assert text.count("\n| 20 | 16 = 4 × 4 | eager | ") == 1
    assert text.count("\n| `aten::convolution_backward` | ") == 1
    assert text.count("aten::") <= measure.DEAREST
    assert all(f"| {precision} | " in text for precision in ("fp32", "bf16"))
    assert "the target is 97%" in text
    assert "rehearsal" not in text


def test_a_variant_whose_kernels_do_not_train_fails(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, report = importlib.import_module("gpu_measure"), importlib.import_module("gpu_check_report")
    alone, settings = Ranks(0, 1, 0, 1, torch.device("cpu")), argparse.Namespace(variant="fused", pixels="20", steps=1)
    recipe = replace(tiny_recipe, precision="bf16")
    assert measure.measure_steps(recipe, alone, settings) == 1
    assert json.loads(capsys.readouterr().out)["not_fused"] == "they are not for bf16 on cpu"
    monkeypatch.setattr(fusing, "FUSED_DEVICE", "cpu")
    monkeypatch.setitem(sys.modules, "imagesprint.model.fused_resnet", None)
    assert measure.measure_steps(recipe, alone, settings) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["phases"] == []
    outcome = {"name": "fused", "status": "failed", "seconds": 1.0, "command": "", "said": "", "result": result}
    about = {"begun": "today", "device": "cuda", "system": "Linux", "commit": "abc", "source": "12", "cores": 2}
    report.write_report(tmp_path, {**about, "missing": []}, [outcome])
    assert "fused, our kernels do not train: Triton cannot be imported" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_evaluation_computes_in_what_is_told(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU whose evaluations have TF32 unless they are told otherwise."""
    measure, cpu = importlib.import_module("gpu_measure"), torch.device("cpu")
    monkeypatch.setattr(measure.evaluation, "evaluation_precision", lambda _: "tf32")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    seen = []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append((torch.backends.cudnn.allow_tf32, (images.float() @ torch.ones(3, 7)).dtype))
        return torch.zeros(2, 7)

    rows = torch.arange(2)
    batch = Batch(torch.zeros(2, 3), rows, rows, rows >= 0, 0, torch.empty((2, 0)))
    with measure.computing_in(precision, cpu):
        measure.judge(model, [batch], measure.blank_table(2, cpu))
    measure.judge(model, [batch], measure.blank_table(2, cpu))
    told = (precision == "tf32", torch.bfloat16 if precision == "bf16" else torch.float32)
    assert seen == [told, (True, torch.float32)]


def test_kernels_of_a_gpu_are_told_once_by_name() -> None:
    measure = importlib.import_module("gpu_measure")
    of_gpu, of_host = measure.DeviceType.CUDA, measure.DeviceType.CPU

    def event(name: str, kind: Any, microseconds: int, named: bool = False) -> SimpleNamespace:
        time_range = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(name=name, device_type=kind, time_range=time_range, is_user_annotation=named)

    events = [
        event("convolution", of_gpu, 300),
        event("norm", of_gpu, 50),
        event("convolution", of_gpu, 600),
        event("cudaGraphLaunch", of_host, 5000),
        event("a step", of_gpu, 5000, named=True),
        *(event(f"small {number}", of_gpu, 5) for number in range(10)),
    ]
    found = measure.dearest_kernels(events, torch.device("cuda"))
    assert found["kernels"][0] == {"name": "convolution", "calls": 2, "seconds": 9e-4, "share": pytest.approx(0.9)}
    assert [kernel["name"] for kernel in found["kernels"]] == ["convolution", "norm", *(f"small {n}" for n in range(8))]
    assert (found["kernel_calls"], found["kernel_seconds"]) == (13, pytest.approx(1e-3))


def test_targets_and_the_whole_recipe(tmp_path: Path) -> None:
    report = importlib.import_module("gpu_check_report")
    rates = {128: 20_000.0, 224: 7_000.0, 288: 4_000.0}
    shape = {"batch_size": 1024, "micro_batch": 128, "flops_per_image": 24.3e9, "seconds_per_step": 0.1}
    phases = [
        {**shape, "image_size": size, "images_per_second": rate, "peak_memory": 1, "compile_seconds": 1.0}
        for size, rate in rates.items()
    ]
    ceilings = {"copy_bytes_per_second": 4.3e12, "matmul_flops_per_second": 790e12, "dtype": "bfloat16"}
    results: list[dict[str, Any]] = [
        {"bench": "machine", "gpu": "NVIDIA H200", "processor": "some", "ceilings": ceilings},
        {"bench": "steps", "variant": "fused", "precision": "bf16", "phases": phases, "not_fused": None},
        {"bench": "evaluation", "image_size": 288, "batch_size": 256, "images_per_second": {"tf32": 10_000.0}},
    ]
    outcomes = [
        {"name": "", "status": "done", "seconds": 1.0, "command": "", "said": "", "result": each} for each in results
    ]
    about = {"begun": "today", "device": "cuda", "system": "Linux", "commit": "abc", "source": "12", "cores": 2}
    report.write_report(tmp_path, {**about, "missing": []}, outcomes)
    text = (tmp_path / "report.md").read_text()
    assert "| fused | 7,000 | 6,300, 7,950 | 100.0 | 170 (22%) |" in text
    training = 26_853_120 / 20_000 + (14_080_000 + 5_124_224) / 7_000 + 5_124_096 / 4_000  # README's images of a size
    assert f"trains for {training:,.0f} s." in text
    assert f"With 40 evaluations in tf32, 200 s more: {training + 200:,.0f} s" in text


def test_photos_of_many_classes(tmp_path: Path) -> None:
    importlib.import_module("photos").make_root(tmp_path / "root", 36, 24, ("full",), classes=12, shards=2)
    root = open_root(tmp_path / "root")
    assert len(root.classes) == 12
    assert len(root.dataset("full", "train")) == 36


def test_losses_of_the_same_training_are_the_same_and_of_others_apart(photo_root: Path, tiny_recipe: Recipe) -> None:
    losses = importlib.import_module("losses")
    root, alone = open_root(photo_root), Ranks(0, 1, 0, 1, torch.device("cpu"))
    recipe = losses.shorten(tiny_recipe, 3)
    found = {name: losses.train(recipe, run, root, alone) for name, run in losses.RUNS.items()}
    assert found["reference"] == losses.train(recipe, losses.Run(), root, alone)
    assert found["seed 1"] != pytest.approx(found["reference"], rel=1e-4)
    assert "agrees" not in losses.compare({name: found[name] for name in ("reference", "fast")})
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


@pytest.mark.parametrize("native", [True, False])
def test_the_stand_in_computes_the_same_sums(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if native and not is_available():
        pytest.skip("the native decoder is not built")
    name = "google_crc32c"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(BENCHMARKS / "stand_ins")
    stand_in = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    if not native:
        monkeypatch.setattr(stand_in, "_native", lambda: None)
    data = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    assert stand_in.__file__ != google_crc32c.__file__
    assert stand_in.value(data) == google_crc32c.value(data)
    for cut in (0, 1, 99, 1000):
        assert stand_in.extend(stand_in.value(data[:cut]), data[cut:]) == google_crc32c.value(data)


def test_losses_are_told_after_each_run(
    photo_root: Path,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses, report = importlib.import_module("losses"), importlib.import_module("gpu_check_report")
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe))
    words = ["losses.py", str(tmp_path / "tiny.toml"), "--data", str(photo_root), "--device", "cpu", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--json"])
    code = losses.main()
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(value["losses"]) for value in said] == [list(losses.RUNS)[: count + 1] for count in range(4)]
    assert code == (0 if said[-1]["agrees"] else 3)
    outcomes = [
        {"name": "losses", "status": "cut off", "seconds": 1.0, "command": "", "said": ""} | {"result": value}
        for value in said
    ]
    about = {"begun": "today", "device": "cuda", "system": "Linux", "commit": "abc", "source": "12", "cores": 2}
    report.write_report(tmp_path, {**about, "missing": []}, outcomes)
    text = (tmp_path / "report.md").read_text()
    assert "reference, fast alone: too few to judge `fast`" in text
    assert text.count("the spread is") == 2  # in the overview and in its part
