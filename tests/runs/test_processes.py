"""Ranks as real processes; what they run is a stand-in for the command line, found by its name on PYTHONPATH."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.errors import RankError
from imagesprint.runs.environment import LAUNCHER_VARIABLE, STORE_VARIABLE, is_main_rank
from imagesprint.runs.processes import is_launcher
from imagesprint.runs.sagemaker import FOLDER_VARIABLE

LAUNCHER = """
import sys
from imagesprint.runs.processes import run_ranks
sys.exit(run_ranks({count}, {words!r}))
"""


def launch(files: Path, count: int, body: str, *before: str, folder: Path | None = None) -> "subprocess.Popen[str]":
    """Start a launcher, in `folder`, whose ranks run `body` with `rank` set, after joining the launcher's fate."""
    (files / "rank.py").write_text(
        "import os, sys, time\nfrom imagesprint.runs.environment import die_with_launcher\n"
        f"die_with_launcher()\nrank = int(os.environ['RANK'])\n{body}\n"
    )
    (files / "sitecustomize.py").write_text(
        "import os, sys, runpy\n"
        "if os.environ.get('RANK') and '-m' in sys.orig_argv:\n"
        f"    runpy.run_path({str(files / 'rank.py')!r}, run_name='__main__')\n    os._exit(0)\n"
    )
    path = os.pathsep.join([str(files), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [*before, sys.executable, "-P", "-c", LAUNCHER.format(count=count, words=["train"])], cwd=folder,
        env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
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


@pytest.mark.parametrize(("aborted_after_meeting", "message"), [
    (True, "RunError: the ranks lost contact with one another"),
    (False, "RunError: rank 1 cannot meet the others over {store}: it was ended by signal 6"),
])  # fmt: skip
def test_a_rank_aborted_before_it_met_the_others_is_the_cause(
    tmp_path: Path, aborted_after_meeting: bool, message: str
) -> None:
    body = f"""
from imagesprint.runs.meeting import note_met
if rank == 0:
    print(os.environ['IMAGESPRINT_STORE'], file=sys.stderr, flush=True)
    os._exit(75)
if {aborted_after_meeting}:
    note_met(1)
print('aborted', file=sys.stderr, flush=True)
os.abort()
"""
    process = launch(tmp_path, 2, body)
    _, errors = process.communicate(timeout=60)
    store, _, said = errors.partition("\n")
    assert (process.returncode, "aborted\n" in said) == (1, not aborted_after_meeting)
    assert message.format(store=store) in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_signals_are_passed_on(tmp_path: Path, number: int, code: int) -> None:
    process = launch(tmp_path, 2, "print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)")
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code


def test_a_closed_terminal_is_passed_on_and_ends_nothing_at_once(tmp_path: Path) -> None:
    body = """
import signal
def note(number, frame):
    time.sleep(0.5)
    print('saved after', number, flush=True)
    os._exit(143)
signal.signal(signal.SIGHUP, note)
print('ready', file=sys.stderr, flush=True)
time.sleep(60)
"""
    process = launch(tmp_path, 1, body)
    assert process.stderr is not None
    process.stderr.readline()
    for _ in range(3):  # as from the kernel, the shell and systemd
        process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, f"saved after {int(signal.SIGHUP)}\n")


def test_ranks_are_deaf_to_a_closed_terminal_under_nohup(tmp_path: Path) -> None:
    body = "print('ready', file=sys.stderr, flush=True); time.sleep(0.5)"
    process = launch(tmp_path, 1, body, "nohup")
    assert process.stderr is not None
    while process.stderr.readline() != "ready\n":  # nohup has something to say, too
        pass
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_what_cannot_be_shown_any_more_changes_no_exit_code_of_a_failure(tmp_path: Path) -> None:
    body = "print('{}', flush=True)\nif rank:\n    print('words', file=sys.stderr, flush=True)\n    os._exit(3)"
    process = launch(tmp_path, 2, body)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 3


def test_ranks_do_not_import_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "random.py").write_text("raise RuntimeError('the wrong one')")
    (tmp_path / "own.py").write_text("")  # PYTHONPATH is the user's word
    process = launch(
        tmp_path, 2, "import random, own; print(random.__file__, sys.path, flush=True)", folder=tmp_path / "here"
    )
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert f"'{tmp_path}'" in out
    assert "''" not in out
    assert f"{tmp_path}/here" not in out


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


@pytest.fixture
def as_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Has the next launcher be on a host of a SageMaker job that has two; returns a folder for it."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)

    def become(name: str) -> Path:
        folder = tmp_path / name
        (folder / "input/config").mkdir(parents=True)
        resources = {"current_host": name, "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"}
        (folder / "input/config/resourceconfig.json").write_text(json.dumps(resources))
        monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
        return folder

    return become


def test_ranks_of_several_machines_are_those_of_one_training(as_host: Callable[[str], Path]) -> None:
    names = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
    body = f"print(rank, *(os.environ[name] for name in {names}), os.environ.get({STORE_VARIABLE!r}), flush=True)"
    processes = [launch(as_host(name), 2, body) for name in ("algo-1", "algo-2")]
    assert [process.communicate(timeout=60)[0] for process in processes] == [
        "0 4 0 2 algo-1 7777 eth0 None\n", "2 4 0 2 algo-1 7777 eth0 None\n",
    ]  # fmt: skip
    assert [process.returncode for process in processes] == [0, 0]


def test_ranks_that_a_signal_on_another_machine_stopped(as_host: Callable[[str], Path]) -> None:
    process = launch(as_host("algo-2"), 2, "os._exit(143)")
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 143


def test_contact_lost_with_another_machine(as_host: Callable[[str], Path]) -> None:
    process = launch(as_host("algo-2"), 2, "os._exit(75)")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "RunError: the ranks lost contact with one another" in errors
