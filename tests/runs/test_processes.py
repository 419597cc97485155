"""Ranks as real processes; what they run is a stand-in for the command line, found by its name on PYTHONPATH."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagesprint.errors import RankError
from imagesprint.runs.environment import LAUNCHER_VARIABLE, is_main_rank
from imagesprint.runs.processes import is_launcher

LAUNCHER = """
import sys
from imagesprint.runs.processes import run_ranks
sys.exit(run_ranks({count}, {words!r}))
"""


def launch(folder: Path, count: int, body: str) -> "subprocess.Popen[str]":
    """Start a launcher whose ranks run `body` with `rank` set, after joining the launcher's fate."""
    (folder / "rank.py").write_text(
        "import os, sys, time\nfrom imagesprint.runs.environment import die_with_launcher\n"
        f"die_with_launcher()\nrank = int(os.environ['RANK'])\n{body}\n"
    )
    (folder / "sitecustomize.py").write_text(
        "import os, sys, runpy\n"
        "if os.environ.get('RANK') and '-m' in sys.orig_argv:\n"
        f"    runpy.run_path({str(folder / 'rank.py')!r}, run_name='__main__')\n    os._exit(0)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER.format(count=count, words=["train"])],
        env=os.environ | {"PYTHONPATH": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_all_well_is_0_and_only_rank_0_is_heard(tmp_path: Path) -> None:
    process = launch(tmp_path, 3, "print('rank', rank, os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'], flush=True)")
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "rank 0 3 0\n")


@pytest.mark.parametrize("failing", [0, 2])
def test_the_code_and_words_of_the_rank_that_failed(tmp_path: Path, failing: int) -> None:
    body = f"""
if rank == {failing}:
    print('error: rank', rank, 'failed', file=sys.stderr, flush=True)
    os._exit(3)
time.sleep(60)
"""
    process = launch(tmp_path, 3, body)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert errors == f"error: rank {failing} failed\n"


def test_a_rank_that_lost_contact_is_not_the_cause(tmp_path: Path) -> None:
    body = """
if rank == 0:
    os._exit(75)
time.sleep(0.02)
print('error: the cause', file=sys.stderr, flush=True)
os._exit(2 if rank == 1 else 75)
"""
    process = launch(tmp_path, 3, body)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (2, "error: the cause\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_are_passed_on(tmp_path: Path, number: int, code: int) -> None:
    process = launch(tmp_path, 2, "print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)")
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code


def test_a_rank_does_not_outlive_its_launcher(tmp_path: Path) -> None:
    process = launch(tmp_path, 2, "print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)")
    assert process.stderr is not None
    rank = int(process.stderr.readline())  # of rank 0, which alone is heard while it runs
    process.kill()
    process.communicate(timeout=10)
    end = time.monotonic() + 10
    while Path(f"/proc/{rank}").exists() and "Z" not in Path(f"/proc/{rank}/stat").read_text().split(")")[1][:3]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert is_launcher(4)
    assert not is_launcher(1)
    assert is_main_rank()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_rank()
    with pytest.raises(RankError, match="RANK=1"):
        is_launcher(4)
    monkeypatch.setenv(LAUNCHER_VARIABLE, "1")
    assert not is_launcher(4)
