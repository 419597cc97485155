"""`make gpu-check` in small slices: what a part can come to, the report, the losses, and what stands in for a library.

The whole is rehearsed by `make gpu-check DEVICE=cpu`, which takes some minutes.
"""

import argparse
import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
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
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import Ranks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_what_a_part_can_come_to(tmp_path: Path) -> None:
    check, report = importlib.import_module("gpu_check"), importlib.import_module("gpu_check_report")

    def outcome(code: str, missing: str = "", left: float = 20.0, takes: float = 20.0) -> Any:
        return check.run(check.Part("some part", takes, (sys.executable, "-c", code), missing), left, tmp_path)

    first = 'import time; print(\'{"bench": "machine", "gpu": "H200"}\', flush=True); time.sleep(99)'
    outcomes = [
        outcome(""),
        outcome("raise SystemExit('it broke')"),
        outcome(first, left=2.0, takes=3.0),
        outcome("", missing="there is no GPU"),
        outcome("", left=9.0),
    ]
    assert [each.status for each in outcomes] == ["done", "failed", "cut off", "left out", "left out"]
    assert outcomes[2].result == {"bench": "machine", "gpu": "H200"}  # what it had said by then
    about = {"begun": "today", "device": "cpu", "system": "Linux", "commit": "abc", "source": "12", "cores": 2}
    report.write_report(tmp_path, {**about, "missing": ["pytest"]}, [vars(each) for each in outcomes])
    text = (tmp_path / "report.md").read_text()
    for said in (
        "it broke",
        "cut off after 2 s",
        "H200, ceilings unknown",
        "there is no GPU",
        "it takes about 20 s, and 9 s are left",
        "Not installed: pytest",
        "say nothing of any GPU",
    ):
        assert said in text
    assert [part["status"] for part in json.loads((tmp_path / "report.json").read_text())["parts"]][1] == "failed"


def test_what_a_part_started_ends_with_it(tmp_path: Path) -> None:
    check = importlib.import_module("gpu_check")
    child = f"import time; time.sleep(2); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(99)"
    assert check.run_until([sys.executable, "-c", code], 1.0, tmp_path) is None
    time.sleep(3)
    assert not (tmp_path / "late").exists()


def test_the_clock_and_the_tree(tmp_path: Path) -> None:
    """In eighteen seconds the first parts are tried, the others left out; nothing is written into the tree."""
    tree = tmp_path / "tree"
    for folder in ("benchmarks/stand_ins", "src", "tests/training"):
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "results")
        shutil.copytree(BENCHMARKS.parent / folder, tree / folder, ignore=left_out)
    for file in [*BENCHMARKS.glob("*.py"), BENCHMARKS.parent / "pyproject.toml"]:
        shutil.copy(file, tree / file.relative_to(BENCHMARKS.parent))
    before = sorted(tree.rglob("*"))
    program = str(tree / "benchmarks/gpu_check.py")
    words = [sys.executable, program, "--device", "cpu", "--minutes", "0.3", "--output", str(tmp_path / "out")]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""}  # no git
    start = time.monotonic()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=99, check=False)
    assert time.monotonic() - start < 23, done.stdout
    assert done.returncode in (0, 1), done.stderr
    assert sorted(tree.rglob("*")) == before
    found = json.loads((tmp_path / "out/report.json").read_text())
    assert found["about"]["commit"] == "unknown"
    names = [part["name"] for part in found["parts"]]
    assert len(names) == len(set(names)) == 10
    assert (names[0], names[-1], found["parts"][-1]["status"]) == ("machine", "losses", "left out")
    assert "are left" in {part["name"]: part["said"] for part in found["parts"]}["photos"]
    assert all(f"  {part['name']}: {part['status']}, " in done.stdout for part in found["parts"])


def test_the_parts_follow_from_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = importlib.import_module("gpu_check")
    monkeypatch.setattr(check, "PROJECT", tmp_path)  # where no gpu-data/ is
    rates = {"steps, eager": 3000.0, "steps, fused": 7000.0, "steps, compiled": 6000.0}
    outcomes: list[Any] = []
    seen = {}
    for part in check.parts("cuda", None, tmp_path, "", outcomes):
        rows = {"bench": "steps", "variant": part.name[7:], "phases": [{"images_per_second": rates.get(part.name)}]}
        status = "cut off" if part.name == "photos" else "done"
        outcomes.append(check.Outcome(part.name, status, 1.0, "", result=rows if part.name in rates else None))
        seen[part.name] = part
    assert list(seen)[:6] == ["machine", "tests", *rates, "steps at 128,288 px, fused"]
    assert {name for name, part in seen.items() if part.missing == "there are no photos"} == {"loader", "losses"}
    (phase,) = load_recipe(tmp_path / "minutes104.toml").phases
    assert (phase.image_size, phase.batch_size, phase.micro_batch) == (224, 2048, 256)


def test_all_parts_are_expected_to_fit() -> None:
    """docs/scaling.md shows where the seconds come from."""
    check = importlib.import_module("gpu_check")
    seconds = list(check.PLANS["cuda"].seconds.values())
    table = (BENCHMARKS.parent / "docs/scaling.md").read_text().partition("## Nine minutes on a GPU")[2]
    shown = [int(row) for row in re.findall(r"^\| [^|]+ \| (\d+) \|", table.partition("\n## ")[0], re.MULTILINE)]
    assert shown == [*seconds, sum(seconds)]
    assert sum(seconds) + 10 < 60 * 9 - check.RESERVE


KERNEL = """
import triton
import triton.language as tl

@triton.jit
def double_kernel(x, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(x + place, 2 * tl.load(x + place))
"""


def test_caches_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is packed of Triton's suffices: what an earlier call compiled for a GPU is not compiled again."""
    triton = pytest.importorskip("triton", reason="there is no Triton for this platform")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    check = importlib.import_module("gpu_check")
    for variable in ("PYTHONPATH", "PYTHONUNBUFFERED", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("TORCHINDUCTOR_BUNDLE_TRITON_INTO_FX_GRAPH_CACHE", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(check.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "doubling.py").write_text(KERNEL)
    kernel = importlib.import_module("doubling").double_kernel
    source = ASTSource(kernel, {"x": "*fp32", "SIZE": "constexpr"}, {"SIZE": 128})

    def compile_and_find(packed: Path | None) -> tuple[Path, set[str]]:
        caches, _ = check.make_ready(tmp_path, packed)
        before = {str(path) for path in caches.rglob("*") if path.is_file()}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert len(made.asm["cubin"]) > 500
        return caches, {str(path) for path in caches.rglob("*") if path.is_file()} - before

    caches, made = compile_and_find(None)
    assert {Path(path).suffix for path in made} > {".cubin", ".json", ".ttir", ".ptx"}
    check.pack(caches, tmp_path / "caches.tar.gz")
    shutil.rmtree(caches)
    assert compile_and_find(tmp_path / "caches.tar.gz") == (caches, set())
    assert os.environ["PYTHONPATH"].startswith(str(BENCHMARKS.parent / "src"))


def test_the_tests_of_a_gpu_import_what_is_installed_there() -> None:
    """Neither the files that are collected nor what is collected with them need more than gpu_check.py says."""
    check = importlib.import_module("gpu_check")
    files = {word for word in check.tests(1.0, Path("scratch")).words if isinstance(word, Path) and word.suffix}
    assert {file.name for file in files} >= {"test_cuda.py", "test_micro_batch_size.py", "test_fused_norm.py"}
    root = BENCHMARKS.parent / "tests"
    files |= {folder / "conftest.py" for file in files for folder in file.parents if folder.is_relative_to(root)}
    known = {*sys.stdlib_module_names, "imagesprint", "google_crc32c", "numpy", "PIL", "pytest", "sklearn", "torch"}
    for file in filter(Path.exists, files):
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.Import):
                assert {name.name.partition(".")[0] for name in statement.names} <= known, file
            if isinstance(statement, ast.ImportFrom) and statement.module:
                assert statement.module.partition(".")[0] in known, file


def test_the_report_shows_what_the_benches_print(
    photo_root: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, report = importlib.import_module("gpu_measure"), importlib.import_module("gpu_check_report")
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe))
    alone = Ranks(0, 1, 0, 1, torch.device("cpu"))
    settings = argparse.Namespace(variant="eager", pixels="20", steps=1)
    for what in measure.MEASURES.values():
        what(replace(tiny_recipe, precision="fp32"), alone, settings)
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
        {"bench": "steps", "variant": "fused", "precision": "bf16", "phases": phases},
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
