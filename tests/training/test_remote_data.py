"""A training whose ROOT is a URL ends with the weights of one from the disk."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.records.remote.meeting import fetcher_pid, meeting_place
from imagesprint.storage.url import Url

STEPS = 6


def result(run: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The weights and the losses after STEPS steps."""
    content = torch.load(run / "checkpoints" / f"step-{STEPS:07d}.pt", weights_only=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return content["model"], [(row["step"], row["loss"], row["top1"]) for row in rows]


def agree(run: Path, other: Path) -> bool:
    (ours, our_rows), (theirs, their_rows) = result(run), result(other)
    return our_rows == their_rows and all(ours[name].equal(value) for name, value in theirs.items())


def test_from_a_store_two_ranks_train_to_the_bits_of_the_disk(
    imagesprint: Callable[..., Any],
    tiny: Path,
    photo_root: Path,
    root_url: Url,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("train", tiny, "--processes", 2, "--stop-after", STEPS)
    assert imagesprint(*words, "--data", photo_root, "--output", tmp_path / "disk").code == 0
    done = imagesprint(*words, "--data", root_url, "--output", tmp_path / "empty", "--cache", tmp_path / "given")
    assert done.code == 0, done.stderr
    assert agree(tmp_path / "empty", tmp_path / "disk")
    assert list((tmp_path / "given/shards").glob("*/train-*"))
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", "60KB")
    done = imagesprint(*words, "--data", root_url, "--output", tmp_path / "small", "--json")
    assert done.code == 0, done.stderr
    assert agree(tmp_path / "small", tmp_path / "disk")


def test_after_kill_9_of_training_and_fetcher_it_goes_on(
    imagesprint: Callable[..., Any], command: list[str], tiny: Path, photo_root: Path, root_url: Url, tmp_path: Path
) -> None:
    words = ["train", str(tiny), "--checkpoint-every", "1", "--output"]
    disk = imagesprint(*words, tmp_path / "disk", "--data", photo_root, "--stop-after", STEPS)
    assert disk.code == 0, disk.stderr
    training = subprocess.Popen(
        [*command, *words, str(tmp_path / "run"), "--data", str(root_url)], stderr=subprocess.DEVNULL
    )
    while not list((tmp_path / "run").glob("checkpoints/*2.pt")):
        assert training.poll() is None
        time.sleep(0.02)
    training.kill()
    training.wait()
    pid = fetcher_pid(meeting_place())
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    done = imagesprint(*words, tmp_path / "run", "--data", root_url, "--stop-after", STEPS)
    assert done.code == 0, done.stderr
    assert "resumed after step" in done.stderr or training.returncode
    ours, theirs = result(tmp_path / "run")[0], result(tmp_path / "disk")[0]
    assert all(ours[name].equal(value) for name, value in theirs.items())
