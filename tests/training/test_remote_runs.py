"""Runs whose place is a URL: sent beside the training, gone on with on an empty disk, to the bits of one on a disk."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from imagesprint.console import Console
from imagesprint.errors import StorageError
from imagesprint.recipes.library import load_recipe
from imagesprint.runs import mirror
from imagesprint.storage.store import Store, open_store
from imagesprint.training.training import TrainingOptions, train
from s3_server import S3

Run = Callable[..., Any]
CHANGES = ("--set", "precision=fp32", "--checkpoint-every", "6", "--keep", "last:2,best", "--device", "cpu")
PATIENCE = 60.0  # seconds until what is waited for must be there


@pytest.fixture(scope="module")
def whole(imagesprint: Run, photo_root: Path, tiny_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on a disk, undisturbed."""
    from imagesprint.recipes.serialization import to_toml

    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(to_toml(tiny_recipe))
    done = imagesprint("train", folder / "tiny.toml", "--data", photo_root, "--output", folder / "run", *CHANGES)
    assert done.code == 0, done.stderr
    return folder / "run"


def keys(store: Store) -> set[str]:
    return {stored.key for stored in store.list()}


def rows(store: Store, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read(name).decode().splitlines()]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def check_is_whole(store: Store, whole: Path, tmp_path: Path) -> None:
    """Check that the run at the URL is what the one on a disk is."""
    assert keys(store) >= {
        "recipe.toml",
        "metrics.jsonl",
        "evaluations.jsonl",
        "commands.jsonl",
        "result.json",
        "log.txt",
    }
    found = {key for key in keys(store) if key.startswith("checkpoints/")}
    assert found == {f"checkpoints/{file.name}" for file in (whole / "checkpoints").iterdir()}
    store.download("checkpoints/step-0000032.pt", tmp_path / "last.pt")
    got = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    expected = torch.load(whole / "checkpoints/step-0000032.pt", weights_only=True)["model"]
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    logged, judged = ([row["step"] for row in rows(store, name)] for name in ("metrics.jsonl", "evaluations.jsonl"))
    assert logged == sorted({*logged})
    assert {*logged} >= {json.loads(line)["step"] for line in (whole / "metrics.jsonl").open()}
    assert judged == [json.loads(line)["step"] for line in (whole / "evaluations.jsonl").open()]


def start(command: list[str], *words: object, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment,
    )  # fmt: skip


def kill_all(process: "subprocess.Popen[str]") -> None:
    """Kill a command and all that it started, as a machine that fails does; none of it is left."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    process.communicate()


@pytest.fixture
def words(tiny: Path, photo_root: Path, s3: S3) -> list[object]:
    return ["train", tiny, "--data", photo_root, "--output", s3.url, *CHANGES]


def test_stopped_and_killed_and_gone_on_with_on_an_empty_disk_it_is_the_same_run(
    imagesprint: Run, command: list[str], words: list[object], s3: S3, whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = open_store(s3.url)
    first = start(command, *words, "--json")
    until(lambda: store.stat("checkpoints/step-0000006.pt"))
    first.send_signal(signal.SIGTERM)  # it saves, and sends what it saves
    out, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 143
    reason = json.loads(out)["error"]
    assert rows(store, "commands.jsonl")[-1]["reason"] == reason
    assert store.stat(f"checkpoints/step-{int(reason.split()[5].rstrip(',')):07d}.pt") is not None
    assert not list((tmp_path / "cache" / "runs").glob("*/*"))

    struck = start(command, *words)
    until(lambda: store.stat("checkpoints/step-0000018.pt"))
    struck.send_signal(signal.SIGSTOP)  # or it may end too soon; what holds the run is a process of its own
    second = imagesprint(*words)
    assert second.code == 2
    assert f"{s3.url} is in use by process {struck.pid}" in second.stderr
    monkeypatch.setenv("IMAGESPRINT_CACHE", str(tmp_path / "another"))  # as on another machine, from here on
    third = imagesprint(*words)
    assert third.code == 1
    assert f"another imagesprint is at work at {s3.url}: process" in third.stderr
    kill_all(struck)
    assert store.stat("result.json") is None

    again = imagesprint(*words, "--json")
    assert again.code == 0, again.stderr
    assert "resumed after step" in again.stderr
    assert again.json["checkpoint"] == f"{s3.url}/checkpoints/step-0000032.pt"
    assert str(tmp_path) not in again.stderr + again.stdout
    check_is_whole(store, whole, tmp_path)
    assert not list((tmp_path / "another" / "runs").glob("*/*"))
    once_more = imagesprint(*words, "--json")
    assert (once_more.code, once_more.json) == (0, again.json)
    assert f"{s3.url} is finished: 32 steps, nothing to do" in once_more.stderr


@pytest.mark.remote
@pytest.mark.parametrize("how", ["killed", "paused"])
def test_a_store_that_is_gone_for_a_while_stops_no_step(
    tiny: Path, photo_root: Path, command: list[str], own_s3: S3, whole: Path, tmp_path: Path, how: str
) -> None:
    words = ["train", tiny, "--data", photo_root, "--output", own_s3.url, *CHANGES]
    store = open_store(own_s3.url)
    process = start(command, *words)
    until(lambda: store.stat("checkpoints/step-0000006.pt"))
    own_s3.server.kill() if how == "killed" else own_s3.server.pause()
    local = next((tmp_path / "cache" / "runs").glob("*/checkpoints")).parent
    until(lambda: (local / "result.json").exists())  # it goes on to its end
    assert process.poll() is None
    own_s3.server.start() if how == "killed" else own_s3.server.resume()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    check_is_whole(open_store(own_s3.url), whole, tmp_path)


@pytest.mark.remote  # 15 s
def test_a_store_that_is_gone_at_the_end_is_an_error_and_the_same_command_sends_the_rest(
    imagesprint: Run, tiny: Path, photo_root: Path, own_s3: S3, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from imagesprint.recipes.serialization import apply_overrides

    monkeypatch.setattr(mirror, "END_SECONDS", 2.0)
    recipe = apply_overrides(load_recipe(tiny), ["precision=fp32"])
    options = TrainingOptions("cpu", checkpoint_every=6)
    killed = False

    class Listener(Console):
        def line(self, text: str = "") -> None:
            nonlocal killed
            super().line(text)
            if text.startswith("evaluated") and not killed:
                own_s3.server.kill()
                killed = True

    with pytest.raises(StorageError) as failed:
        train(recipe, photo_root, own_s3.url, options, Listener(quiet=True))
    assert str(failed.value).startswith(f"not at {own_s3.url} yet: ")
    assert "checkpoints/step-0000032.pt" in str(failed.value)
    assert str(tmp_path / "cache" / "runs") in failed.value.hint
    own_s3.server.start()
    words = ["train", tiny, "--data", photo_root, "--output", own_s3.url, *CHANGES]
    again = imagesprint(*words)
    assert again.code == 0, again.stderr
    assert "nothing to do" in again.stderr
    assert not list((tmp_path / "cache" / "runs").glob("*/*"))
    store = open_store(own_s3.url)
    assert store.stat("result.json") is not None
    assert store.stat("checkpoints/step-0000032.pt") is not None


def test_a_place_that_cannot_be_written_is_told_before_anything_is_done(
    imagesprint: Run, words: list[object], s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.server.reader.items():
        monkeypatch.setenv(name, value)
    refused = imagesprint(*words)
    assert refused.code == 1
    assert refused.stderr.startswith(f"error: cannot create {s3.url}")
    assert "phase" not in refused.stderr
