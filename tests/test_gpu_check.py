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
import tarfile
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
from imagesprint.loading.batch import Batch
from imagesprint.model import fusing
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

    def outcome(code: str, missing: str = "", left: float = 20.0, takes: float = 20.0, early: float = 0.6) -> Any:
        part = check.Part("some part", takes, (sys.executable, "-c", code), missing, early)
        return check.run(part, left, tmp_path, tmp_path / "log.txt")

    first = 'import time; print(\'{"bench": "machine", "gpu": "H200"}\', flush=True); time.sleep(99)'
    outcomes = [
        outcome(""),
        outcome("raise SystemExit('it broke')"),
        outcome(first, left=2.0, takes=3.0),
        outcome("", missing="there is no GPU"),
        outcome("", left=9.0),
        outcome("", left=19.0, early=1.0),
    ]
    assert [each.status for each in outcomes] == ["done", "failed", "cut off", "left out", "left out", "left out"]
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
        "it takes about 20 s, and 19 s are left",
        "Not installed: pytest",
        "say nothing of any GPU",
    ):
        assert said in text
    assert [part["status"] for part in json.loads((tmp_path / "report.json").read_text())["parts"]][1] == "failed"
    log = (tmp_path / "log.txt").read_text()
    assert log.count("==== some part: python -c") == 3  # those that were begun
    assert '"gpu": "H200"' in log


def test_a_part_that_was_begun_before_is_waited_for(tmp_path: Path) -> None:
    check = importlib.import_module("gpu_check")
    words = (sys.executable, "-c", "import os; print(os.nice(0))")
    process = check.Process(words, tmp_path, "beside")
    process.stand_back()
    part = check.Part("beside", 1.0, words, early=0.0, begun=process)
    assert check.run(part, 9.0, tmp_path, tmp_path / "log.txt").status == "done"
    assert process.said() == ("19\n", "")
    late = check.Process((sys.executable, "-c", "import time; time.sleep(99)"), tmp_path, "late")
    assert check.run(replace(part, begun=late), 0.5, tmp_path, tmp_path / "log.txt").status == "cut off"
    assert late._process.poll() == -9


def test_holding_the_gpu_ends_with_what_it_is_held_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is none, and the process that holds it ends by itself."""
    machine = importlib.import_module("gpu_check_machine")
    children: list[Any] = []
    popen = subprocess.Popen

    def begin(*words: Any, **others: Any) -> Any:
        children.append(popen(*words, **others))
        return children[-1]

    monkeypatch.setattr(machine.subprocess, "Popen", begin)
    for program in (machine._HOLD, "import sys; sys.stdin.read()"):
        monkeypatch.setattr(machine, "_HOLD", program)
        with machine.held_gpu():
            pass
        assert children[-1].returncode is not None


def test_what_a_part_started_ends_with_it(tmp_path: Path) -> None:
    check = importlib.import_module("gpu_check")
    child = f"import time; time.sleep(2); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(99)"
    assert check.Process([sys.executable, "-c", code], tmp_path).finish(1.0) is None
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
    assert (names[0], names[-1], found["parts"][-1]["status"]) == ("machine", "steps at 16 px, eager", "left out")
    assert "are left" in {part["name"]: part["said"] for part in found["parts"]}["steps at 16 px, compiled"]
    assert all(f"  {part['name']}: {part['status']}, " in done.stdout for part in found["parts"])


def followed(check: Any, rates: dict[str, float], photos: Any, scratch: Path) -> dict[str, Any]:
    """The parts on a GPU whose variants have these images a second."""
    outcomes: list[Any] = []
    seen = {}
    for part in check.parts("cuda", photos, scratch, outcomes):
        variant = part.name.rpartition(", ")[2]
        phases = [{"images_per_second": rates[variant]}] if variant in rates else []
        rows = {"bench": "steps", "variant": variant, "phases": phases}
        status = "cut off" if part.name == "photos" else "done"
        outcomes.append(check.Outcome(part.name, status, 1.0, "", result=rows if "steps" in part.name else None))
        seen[part.name] = part
    return seen


def test_the_parts_follow_from_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = importlib.import_module("gpu_check")
    monkeypatch.setattr(check, "PROJECT", tmp_path)  # where no gpu-data/ is
    none = check.photos_part(check.PLANS["cuda"], None, tmp_path, "there is no decoder")
    assert (none.begun, none.missing) == (None, "there is no decoder")
    given = check.photos_part(check.PLANS["cuda"], tmp_path / "mine", tmp_path, "")
    assert (given.begun, given.words[-1]) == (None, tmp_path / "mine")
    made = replace(given, missing="")
    fused = followed(check, {"eager": 3000.0, "fused": 7000.0, "compiled": 6000.0}, made, tmp_path)
    steps = ["steps at 224,128,288 px, fused", "steps at 224 px, compiled"]
    behind = ["evaluation", "photos", "loader", "kernels", "losses", "steps at 224 px, eager"]
    assert list(fused) == ["machine", "tests", *steps, *behind]
    assert {name for name, part in fused.items() if part.missing == "there are no photos"} == {"loader", "losses"}
    (phase,) = load_recipe(tmp_path / "minutes104.toml").phases
    assert (phase.image_size, phase.batch_size, phase.micro_batch) == (224, 2048, 256)

    compiled = followed(check, {"eager": 3000.0, "compiled": 6000.0}, given, tmp_path)
    assert list(compiled) == ["machine", "tests", *steps, "steps at 128,288 px, compiled", *behind]
    assert not {compiled[name].missing for name in ("loader", "losses")} - {""}
    eager = followed(check, {}, none, tmp_path)
    assert list(eager) == list(fused)
    assert eager["loader"].missing == eager["losses"].missing == "there is no decoder"
    off = [part.words[part.words.index("--compile") + 1] for part in (eager["loader"], fused["loader"])]
    assert off == ["off", "on"]
    assert {name for name, part in fused.items() if part.early == 1} == {"loader"}  # which says nothing on its way


def test_all_parts_are_expected_to_fit() -> None:
    """docs/scaling.md shows where the seconds come from."""
    check = importlib.import_module("gpu_check")
    plan = check.PLANS["cuda"].seconds
    table = (BENCHMARKS.parent / "docs/scaling.md").read_text().partition("## Nine minutes on a GPU")[2]
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \|", table.partition("\n## ")[0], re.MULTILINE)
    expected = {name: seconds for name, seconds in plan.items() if name != "others"}  # where our kernels are slower
    assert [int(seconds) for name, seconds in rows if name not in ("start", "all")] == list(expected.values())
    start, whole = (int(dict(rows)[name]) for name in ("start", "all"))
    assert whole == start + sum(expected.values())
    assert whole + 20 < 60 * 9 - check.RESERVE
    # And if our kernels are the slower, what comes before the last three parts
    first = start + sum(plan.values()) - plan["kernels"] - plan["losses"] - plan["eager"]
    assert first < 60 * 9 - check.RESERVE


@pytest.mark.parametrize(("seconds", "limit"), [(10.0, 50.0), (100.0, 170.0)])
def test_what_is_planned_short_may_take_longer_too(seconds: float, limit: float) -> None:
    assert importlib.import_module("gpu_check").Part("", seconds, ()).limit == limit


@pytest.mark.parametrize("variable", [None, "OUT"])
def test_the_report_goes_where_a_lent_machine_takes_it_from(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = importlib.import_module("gpu_check")
    monkeypatch.setattr(check, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(check, "parts", lambda *_: iter([check.Part("some part", 1.0, (), "nothing to do")]))
    monkeypatch.setattr(check, "make_ready", lambda *_: (tmp_path / "none", "no images"))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu"])
    monkeypatch.delenv("OUT", raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "back"))
    assert check.main() == 0
    (report,) = tmp_path.rglob("report.md")
    assert report.parent.name == ("back" if variable else f"{time.strftime('%Y-%m-%d')}-gpu-check-cpu")


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

    check = importlib.import_module("gpu_check_machine")
    for variable in ("PYTHONPATH", "PYTHONUNBUFFERED", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("TORCHINDUCTOR_BUNDLE_TRITON_INTO_FX_GRAPH_CACHE", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(check.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "doubling.py").write_text(KERNEL)
    kernel = importlib.import_module("doubling").double_kernel
    source = ASTSource(kernel, {"x": "*fp32", "SIZE": "constexpr"}, {"SIZE": 128})

    packing: list[Any] = []

    def compile_and_find(packed: list[Path]) -> tuple[Path, set[str]]:
        caches, _ = check.make_ready(tmp_path, packed)
        packing.append(check.Caches(caches, tmp_path))
        before = {str(path) for path in caches.rglob("*") if path.is_file()}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert len(made.asm["cubin"]) > 500
        return caches, {str(path) for path in caches.rglob("*") if path.is_file()} - before

    caches, made = compile_and_find([])
    assert {Path(path).suffix for path in made} > {".cubin", ".json", ".ttir", ".ptx"}
    packing[0].pack()
    shutil.rmtree(caches)
    assert compile_and_find([tmp_path / "caches.0.tar.gz"]) == (caches, set())
    assert os.environ["PYTHONPATH"].startswith(str(BENCHMARKS.parent / "src"))


def test_caches_are_packed_in_pieces_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is larger than a lent machine gives back, and what was packed is not packed again."""
    machine = importlib.import_module("gpu_check_machine")
    monkeypatch.setattr(machine, "PIECE_BYTES", 5000)
    folder = tmp_path / "caches/some/place"
    folder.mkdir(parents=True)
    caches = machine.Caches(tmp_path / "caches", tmp_path)
    noise = np.random.default_rng(0)
    made = {}
    for number in range(9):
        made[f"{number}.cubin"] = noise.bytes(1500)
        (folder / f"{number}.cubin").write_bytes(made[f"{number}.cubin"])
        if number % 2:
            caches.pack()
    (folder / "7.cubin").write_bytes(b"other")
    (folder / "7.ptx").write_bytes(b"left out")
    made["7.cubin"] = b"other"
    caches.pack()
    pieces = sorted(tmp_path.glob("caches.*.tar.gz"))
    assert [piece.name for piece in pieces] == [f"caches.{number}.tar.gz" for number in range(len(pieces))]
    assert len(pieces) > 2
    assert max(piece.stat().st_size for piece in pieces) <= 5000
    before = [piece.stat().st_mtime_ns for piece in pieces]
    caches.pack()
    assert [piece.stat().st_mtime_ns for piece in pieces] == before
    for piece in pieces:
        with tarfile.open(piece, ignore_zeros=True) as archive:
            archive.extractall(tmp_path / "out", filter="data")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/some/place").iterdir()} == made


def test_the_tests_of_a_gpu_import_what_is_installed_there() -> None:
    """Neither the files that are collected nor what is collected with them need more than gpu_check.py says."""
    check = importlib.import_module("gpu_check")
    files = {word for word in check.tests(1.0, Path("scratch")).words if isinstance(word, Path) and word.suffix}
    assert {file.name for file in files} >= {"test_cuda.py", "test_micro_batch_size.py", "test_precision.py"}
    cases = [Path(word) for word in check.kernels(1.0, Path("scratch"), "").words if str(word).endswith("_cases.py")]
    assert len([case for case in cases if case.exists()]) == 2
    files.update(cases)
    root = BENCHMARKS.parent / "tests"
    files |= {folder / "conftest.py" for file in files for folder in file.parents if folder.is_relative_to(root)}
    known = {*sys.stdlib_module_names, "imagesprint", "google_crc32c", "numpy", "PIL", "pytest", "sklearn", "torch"}
    known.add("triton")
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
