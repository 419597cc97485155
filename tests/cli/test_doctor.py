"""`doctor` from the command line, on machines where something is wrong."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import imagesprint as package
from imagesprint.cli.main import main
from imagesprint.diagnosis import stage_costs
from imagesprint.diagnosis.verdict import STAGES
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml


@pytest.fixture
def bare_package(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH: this package without the native decoder, and a torch whose libraries are missing."""
    folder = tmp_path / "packages"
    source = Path(package.__file__).parent
    shutil.copytree(source, folder / "imagesprint", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    return folder


def doctor(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    def limit() -> None:  # the disk is as good as full: no file may grow over 2 MiB
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))

    variables = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        [sys.executable, "-m", "imagesprint", "doctor", *map(str, words)],
        env=variables | {"PYTHONPATH": str(folder), "IMAGESPRINT_DECODER": ""} | environment,
        cwd=folder,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_machine_where_much_is_wrong(bare_package: Path) -> None:
    done = doctor(bare_package, "--json", RANK="5", WORLD_SIZE="4", LOCAL_RANK="1")
    assert (done.returncode, done.stderr) == (3, "")
    value = json.loads(done.stdout)
    assert value["bottleneck"] is None
    assert all(set(check) == {"name", "status", "detail", "hint"} for check in value["checks"])
    checks = {check["name"]: check for check in value["checks"]}
    assert {name for name, check in checks.items() if check["status"] == "failure"} == {"pytorch", "disk", "ranks"}
    assert all(check["hint"] for check in checks.values() if check["status"] != "ok")
    assert checks["pytorch"]["detail"] == "cannot be imported: OSError: libcudart.so.13: cannot open shared object file"
    assert checks["disk"]["detail"] == f"{bare_package} cannot be written: File too large"
    assert "free some space" in checks["disk"]["hint"]
    assert checks["ranks"]["detail"] == "RANK is 5 and WORLD_SIZE 4"
    assert "torchrun" in checks["ranks"]["hint"]
    assert checks["decoder"]["status"] == "warning"
    assert "apt-get install gcc libjpeg-dev" in checks["decoder"]["hint"]


def test_the_text_fits_a_terminal(bare_package: Path) -> None:
    done = doctor(bare_package, RANK="5", WORLD_SIZE="4", LOCAL_RANK="1")
    assert done.returncode == 3
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\nfailure  ranks" in done.stdout
    assert "→ start the ranks with --processes or torchrun" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("3 failures, ")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_machine_without_shared_memory(bare_package: Path) -> None:
    command = f"mount -t tmpfs -o ro tmpfs /dev/shm && exec {sys.executable} -m imagesprint doctor --json"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command],
        env=os.environ | {"PYTHONPATH": str(bare_package)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if not done.stdout:
        pytest.skip(f"this container may not: {done.stderr.strip()}")
    found = next(check for check in json.loads(done.stdout)["checks"] if check["name"] == "shared memory")
    assert (found["status"], found["detail"]) == ("warning", "/dev/shm cannot be used: Read-only file system")
    assert "--shm-size" in found["hint"]


def test_this_machine(
    photo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    assert main(["doctor", "--data", str(photo_root)]) in (0, 3)  # what is wrong here is the machine's
    out = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} " in out for name in ("python", "pytorch", "driver", "cores", "memory", "disk", "ports"))
    assert "the 3 shards stay open" in out
    assert main(["doctor", "--data", str(tmp_path / "none")]) == 2


def test_the_stages_of_a_recipe_and_of_a_run(
    photo_root: Path,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STEP_SECONDS", "LOADING_SECONDS"):
        monkeypatch.setattr(stage_costs, name, 0.3)
    Path("tiny.toml").write_text(to_toml(tiny_recipe))
    assert main(["doctor", "tiny.toml", "--data", str(photo_root), "--device", "cpu", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["bottleneck"] == "compute"  # in float64
    assert [phase["phase"] for phase in value["phases"]] == [0, 1]
    for phase in value["phases"]:
        assert {limit["name"] for limit in phase["limits"]} == set(STAGES)
        assert phase["alone"]["step"] > 0
        assert phase["alone"]["loaders"][0]["threads"] == 1
        assert phase["alone"]["checkpoint"]["writing"] > 0
    assert all(set(check) == {"name", "status", "detail", "hint"} for check in value["checks"])
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.toml"]  # no checkpoint is left

    words = ["train", "tiny.toml", "--data", str(photo_root), "--output", "run", "--device", "cpu", "--quiet"]
    assert main([*words, "--stop-after", "12"]) == 0
    capsys.readouterr()
    assert main(["doctor", "run", "--data", str(photo_root)]) in (0, 3)
    out = capsys.readouterr().out
    assert re.search(r"^phase 0: \d+ images/s by 1 rank with \d+ \w+ decoding threads?$", out, re.MULTILINE)
    assert "zero-init" in out or "resolution" in out  # what costs accuracy follows
    assert max(map(len, out.splitlines())) <= 100


def test_a_recipe_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "small"]) == 2
    assert "error: doctor small: there is no data to measure with\nhint: add --data ROOT" in capsys.readouterr().err
    assert main(["doctor", "smal", "--data", "none"]) == 2
    assert "did you mean small?" in capsys.readouterr().err
