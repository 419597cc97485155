"""A run that was killed ends as one that was not, bit for bit, and nothing is left over."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from imagesprint.recipes.serialization import to_toml

Train = Callable[..., Any]


def weights(run: Path) -> dict[str, torch.Tensor]:
    content = torch.load(sorted((run / "checkpoints").glob("*.pt"))[-1], weights_only=True)
    assert content["step"] == 32
    model: dict[str, torch.Tensor] = content["model"]
    return model


def logged_steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensorboard_steps(run: Path, tag: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.005)


CHANGES = ("--set", "precision=fp32", "--set", "ema_decay=0.9")


@pytest.fixture(scope="module")
def whole(
    imagesprint: Train, photo_root: Path, tiny_recipe: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """A run that nothing disturbed, on so many processes."""

    @cache
    def make(processes: int) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        (folder / "tiny.toml").write_text(to_toml(tiny_recipe))
        where = ["--data", photo_root, "--output", folder / "run", "--processes", processes]
        done = imagesprint("train", folder / "tiny.toml", *where, "--checkpoint-every", 6, *CHANGES)
        assert done.code == 0, done.stderr
        return folder / "run"

    return make


def test_two_ranks_killed_between_two_checkpoints_and_resumed_come_to_the_same_bits(
    imagesprint: Train, command: list[str], photo_root: Path, tiny: Path, tmp_path: Path, whole: Callable[[int], Path]
) -> None:
    """One process: test_ranks.py."""
    struck, reference = tmp_path / "struck", whole(2)
    where = ["--data", photo_root, "--output", struck, "--processes", 2]
    words = ["train", tiny, *where, "--checkpoint-every", 6, *CHANGES]
    launcher = subprocess.Popen([*command, *map(str, words)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(struck / "checkpoints" / "step-0000012.pt")
    family = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    assert len(family) == 3
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, "processes outlived the launcher"
    assert not (struck / "result.json").exists()
    assert not (struck / "checkpoints" / "step-0000032.pt").exists(), "it was killed too late to test anything"

    again = imagesprint(*words)
    assert again.code == 0, again.stderr
    assert "resumed after step" in again.stderr
    expected, got = weights(reference), weights(struck)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert logged_steps(struck) == logged_steps(reference)
    assert tensorboard_steps(struck, "loss/total") == logged_steps(reference)


def test_a_dead_rank_ends_the_others_and_the_launcher_says_so(
    command: list[str], photo_root: Path, tiny: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [*command, "train", tiny, "--data", photo_root, "--output", run, "--processes", 2, "--checkpoint-every", 2]
    launcher = subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for(run / "checkpoints" / "step-0000002.pt")
    ranks = psutil.Process(launcher.pid).children()
    victim = next(rank for rank in ranks if rank.environ()["RANK"] == "1")
    victim.kill()
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert "rank 1 was ended by signal 9" in errors
    assert "Traceback" not in errors
    assert not psutil.wait_procs(ranks, timeout=5)[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_ends_with_130(command: list[str], photo_root: Path, tiny: Path, tmp_path: Path, processes: int) -> None:
    run = tmp_path / "run"
    words = [*command, "train", tiny, "--data", photo_root, "--output", run, "--processes", processes]
    process = subprocess.Popen(
        list(map(str, words)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    wait_for(run / "checkpoints" / "step-0000004.pt")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_stop_after_writes_a_checkpoint_and_the_next_command_goes_on(
    imagesprint: Train, photo_root: Path, tiny: Path, tmp_path: Path, whole: Callable[[int], Path]
) -> None:
    run = tmp_path / "run"
    words = ("train", tiny, "--data", photo_root, "--json", *CHANGES)
    stopped = imagesprint(*words, "--output", run, "--stop-after", 7)
    assert stopped.code == 0, stopped.stderr
    assert stopped.json["steps"] == 7
    assert stopped.json["top1"] is None
    assert Path(stopped.json["checkpoint"]) == run / "checkpoints" / "step-0000007.pt"
    assert not (run / "result.json").exists()

    again = imagesprint(*words, "--output", run, "--stop-after", 5)  # behind where it is: nothing to do
    assert (again.code, again.json["steps"]) == (0, 7)

    finished = imagesprint(*words, "--output", run, "--resume", "require")
    assert finished.code == 0, finished.stderr
    expected, got = weights(whole(1)), weights(run)
    assert all(torch.equal(expected[key], got[key]) for key in expected)

    once_more = imagesprint(*words, "--output", run)
    assert once_more.code == 0
    assert once_more.json == finished.json
    assert "nothing to do" in once_more.stderr
    kept = json.loads((run / "result.json").read_text())  # its path is relative: a run directory may be moved
    assert finished.json == kept | {"checkpoint": str(run / kept["checkpoint"])}
    assert set(finished.json) == {
        "steps", "epochs", "images_per_second", "wall_seconds", "compile_seconds", "bad_records", "overflows",
        "interruptions", "plan", "top1", "top5", "mean_class_accuracy", "loss", "checkpoint", "ended_early",
    }  # fmt: skip
