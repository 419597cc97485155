"""`make gpu-check` in small slices: what a part can come to, which parts there are, and what is kept.

The whole is rehearsed by `make gpu-check DEVICE=cpu`, which takes some minutes.
"""

import ast
import errno
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
from typing import Any

import numpy as np
import pytest

from imagesprint.recipes.library import load_recipe

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
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where there is no room for what was compiled."""
    check = importlib.import_module("gpu_check")

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(check, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(check, "parts", lambda *_: iter([check.Part("some part", 1.0, (), "nothing to do")]))
    monkeypatch.setattr(check, "make_ready", lambda *_: (tmp_path / "none", "no images"))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu"])
    monkeypatch.delenv("OUT", raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "back"))
    monkeypatch.setattr(check.Caches, "pack", full)
    assert check.main() == 0
    assert "what was compiled is not kept: [Errno 28]" in capsys.readouterr().out
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
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(tmp_path / "out")
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
    servers = {file.stem: file for file in (BENCHMARKS / "servers").glob("*.py")}
    files |= {servers[name] for name in ("fault_proxy", "hdfs_server", "s3_server", "server_process")}  # conftest.py's
    known |= {"triton", *servers}
    for file in filter(Path.exists, files):
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.Import):
                assert {name.name.partition(".")[0] for name in statement.names} <= known, file
            if isinstance(statement, ast.ImportFrom) and statement.module:
                assert statement.module.partition(".")[0] in known, file
