"""A run that is told to stop saves, says so, and goes on to the same bits."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Run = Callable[..., Any]


def newest(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(max((run / "checkpoints").glob("step-*.pt")), weights_only=True)
    return content


@pytest.mark.parametrize(("processes", "number", "code"), [(2, signal.SIGHUP, 143), (1, signal.SIGINT, 130)])
def test_a_signal_saves_and_the_next_command_ends_with_the_same_bits(
    imagesprint: Run, command: list[str], photo_root: Path, tiny: Path, tmp_path: Path, processes: int, number: int,
    code: int,
) -> None:  # fmt: skip
    words = ["train", tiny, "--data", photo_root, "--processes", processes, "--keep", "last:2", "--json"]
    whole, struck = tmp_path / "whole", tmp_path / "struck"
    assert imagesprint(*words, "--output", whole).code == 0
    process = subprocess.Popen(
        [*command, *map(str, words), "--output", str(struck)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    end = time.monotonic() + 100
    while not (struck / "checkpoints" / "step-0000008.pt").exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(number)
    said = json.loads(process.communicate(timeout=100)[0])
    assert process.returncode == said["exit_code"] == code
    step = newest(struck)["step"]
    assert 8 <= step < 32
    assert said["error"] == f"stopped by {signal.Signals(number).name} after step {step}, which is saved"
    assert said["error"] in (struck / "log.txt").read_text()

    again = imagesprint(*words, "--output", struck)
    assert again.code == 0, again.stderr
    assert [(one["reason"], one["step"]) for one in again.json["interruptions"]] == [(said["error"], step)]
    assert sorted(file.name for file in (struck / "checkpoints").iterdir()) == ["step-0000028.pt", "step-0000032.pt"]
    expected, got = newest(whole)["model"], newest(struck)["model"]
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    evaluated = [[json.loads(line)["step"] for line in (run / "evaluations.jsonl").open()] for run in (whole, struck)]
    assert evaluated[0] == evaluated[1]


def test_a_terminal_that_closes_saves(command: list[str], photo_root: Path, tiny: Path, tmp_path: Path) -> None:
    """All that a lost ssh does: SIGHUP, and a terminal that cannot be written to any more."""
    run = tmp_path / "run"
    words = [*command, "train", str(tiny), "--data", str(photo_root), "--output", str(run)]
    child, screen = pty.fork()
    if child == 0:
        os.execv(words[0], words)
    seen = b""
    while b"  loss " not in seen:
        seen += os.read(screen, 4096)
    os.close(screen)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    step = newest(run)["step"]
    assert 0 < step < 32
    said = f"stopped by SIGHUP after step {step}, which is saved"
    assert json.loads((run / "commands.jsonl").read_text().splitlines()[-1])["reason"] == said
    assert f"rank 0: error: {said}" in (run / "log.txt").read_text()


def test_an_evaluation_that_a_kill_prevented_is_made_up_for(
    imagesprint: Run, photo_root: Path, tiny: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train", tiny, "--data", photo_root, "--output", run, "--stop-after", 16)
    assert imagesprint(*words).code == 0
    row = (run / "evaluations.jsonl").read_text()
    (run / "evaluations.jsonl").write_text("")  # as if killed before it was written
    assert imagesprint(*words).code == 0
    assert (run / "evaluations.jsonl").read_text() == row


def test_a_second_command_is_kept_out(imagesprint: Run, photo_root: Path, tiny: Path, tmp_path: Path) -> None:
    from imagesprint.runs.directory import run_lock

    with run_lock(tmp_path / "run"):
        done = imagesprint("train", tiny, "--data", photo_root, "--output", tmp_path / "run")
    assert done.code == 2
    assert "run is in use by process" in done.stderr
