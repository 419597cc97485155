"""What strikes a run at a URL beside its training: its process, its lease, its checkpoints, its other machines."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.runs.sending import LEASE, checkpoint_keys
from imagesprint.storage.lease import Holder
from imagesprint.storage.store import Store, open_store
from s3_server import S3

pytestmark = pytest.mark.remote

Run = Callable[..., Any]
PATIENCE = 120.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def words(tiny_recipe: Recipe, tmp_path: Path, photo_root: Path, s3: S3) -> list[str]:
    (tmp_path / "tiny.toml").write_text(to_toml(dataclasses.replace(tiny_recipe, precision="fp32")))
    where = ["--data", str(photo_root), "--output", str(s3.url), "--device", "cpu"]
    return ["train", str(tmp_path / "tiny.toml"), *where, "--checkpoint-every", "4"]


@pytest.fixture
def store(s3: S3) -> Store:
    return open_store(s3.url)


def start(command: list[str], words: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def mirror_of(process: "subprocess.Popen[str]") -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if "imagesprint.runs.mirror_process" in child.cmdline())


def test_the_process_that_sends_is_started_again(command: list[str], words: list[str], store: Store) -> None:
    process = start(command, [*words, "--set", "phases.1.epochs=4,16", "--keep", "last:2"])
    until(lambda: store.stat("checkpoints/step-0000004.pt"))
    mirror_of(process).kill()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert said.count("another is started") == 1
    # Also what was not to stay while nobody could delete it has gone.
    assert checkpoint_keys(store) == ["checkpoints/step-0000060.pt", "checkpoints/step-0000064.pt"]
    assert store.stat("result.json") is not None


def test_a_run_that_is_taken_over_ends_and_sends_no_more(command: list[str], words: list[str], store: Store) -> None:
    process = start(command, [*words, "--set", "phases.1.epochs=4,400"])
    until(lambda: store.stat("checkpoints/step-0000004.pt"))
    other = dataclasses.replace(Holder.own(), host="node-7", machine="another")
    content = json.dumps({"holder": dataclasses.asdict(other), "id": "x", "renewals": 0})
    store.write(f"{LEASE}/00000009", content.encode())
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "was taken over by process" in said
    assert "node-7" in said
    assert "Traceback" not in said


def test_a_run_of_another_machine_is_waited_for(command: list[str], words: list[str], store: Store) -> None:
    other = dataclasses.replace(Holder.own(), host="node-7", machine="another")
    content = json.dumps({"holder": dataclasses.asdict(other), "id": "x", "renewals": 0})
    store.write(f"{LEASE}/00000001", content.encode())
    began = time.monotonic()
    process = start(command, words)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "waiting for process" in said
    assert "node-7" in said
    assert time.monotonic() - began > 100


def test_the_newest_whole_one_is_gone_on_from(imagesprint: Run, words: list[str], store: Store) -> None:
    assert imagesprint(*words, "--stop-after", 12).code == 0
    data = bytearray(store.read("checkpoints/step-0000012.pt"))
    data[len(data) // 2] ^= 1
    store.write("checkpoints/step-0000012.pt", bytes(data))
    done = imagesprint(*words)
    assert done.code == 0, done.stderr
    assert "step-0000012.pt.damaged, and the run goes on from step-0000008.pt" in done.stderr
    assert store.stat("checkpoints/step-0000012.pt.damaged") is not None
    assert len(checkpoint_keys(store)) == 8
    steps = [json.loads(line)["step"] for line in store.read("metrics.jsonl").splitlines()]
    assert steps == sorted(set(steps))


def test_two_ranks_that_are_killed_go_on_to_the_bits_of_two_that_are_not(
    imagesprint: Run, command: list[str], words: list[str], store: Store, tmp_path: Path
) -> None:
    where = words.index("--output") + 1
    undisturbed = [*words[:where], str(tmp_path / "undisturbed"), *words[where + 1 :], "--processes", "2"]
    assert imagesprint(*undisturbed).code == 0
    process = start(command, [*words, "--processes", "2"])
    until(lambda: store.stat("checkpoints/step-0000012.pt"))
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    assert not psutil.wait_procs(family, timeout=10)[1]
    process.communicate()
    assert store.stat("result.json") is None
    again = imagesprint(*words, "--processes", "2")
    assert again.code == 0, again.stderr
    store.download("checkpoints/step-0000032.pt", tmp_path / "last.pt")
    expected, got = (
        torch.load(file, weights_only=True)["model"]
        for file in (tmp_path / "undisturbed/checkpoints/step-0000032.pt", tmp_path / "last.pt")
    )
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_ranks_of_two_machines_start_from_what_is_at_the_url(
    command: list[str], words: list[str], store: Store, imagesprint: Run, tmp_path: Path
) -> None:
    assert imagesprint(*words, "--stop-after", 8).code == 0
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ranks = [
        start(
            command, [*words, "--json"], RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), IMAGESPRINT_CACHE=str(tmp_path / f"cache-{rank}"),
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=PATIENCE)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "resumed after step 8" in said[0]
    assert len(checkpoint_keys(store)) == 8
    assert not [*tmp_path.glob("cache-*/runs/*/*")]


def test_a_store_that_stays_away_is_told_of_once(
    command: list[str], tiny_recipe: Recipe, photo_root: Path, own_s3: S3, tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(to_toml(dataclasses.replace(tiny_recipe, precision="fp32")))
    words = ["train", str(tmp_path / "tiny.toml"), "--data", str(photo_root), "--output", str(own_s3.url)]
    process = start(command, [*words, "--set", "phases.1.epochs=4,4000", "--keep", "last:2"])
    store = open_store(own_s3.url)
    until(lambda: store.stat("checkpoints/step-0000004.pt"))
    own_s3.server.kill()
    time.sleep(30)
    memory = mirror_of(process).memory_info().rss
    time.sleep(60)
    assert process.poll() is None
    local = next((tmp_path / "cache" / "runs").glob("*/checkpoints"))
    assert len(list(local.glob("step-*.pt"))) <= 3
    assert mirror_of(process).memory_info().rss < memory + (8 << 20)
    own_s3.server.start()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, said
    assert said.count("training goes on") == 1
    assert said.count("can be written again") == 1
    step = int(json.loads(store.read("commands.jsonl").splitlines()[-1])["step"])
    assert checkpoint_keys(store)[-1] == f"checkpoints/step-{step:07d}.pt"
