"""The whole way by URL: photos in S3, prepared into HDFS, trained into S3, killed, gone on with elsewhere, used."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hdfs_server import Hdfs
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.storage.store import open_store
from s3_server import S3

pytestmark = [pytest.mark.remote, pytest.mark.hdfs]
PATIENCE = 120.0  # seconds until what is waited for must be there


@pytest.fixture
def prepared(s3: S3, hdfs: Hdfs, photos: Path, imagesprint: Callable[..., Any]) -> str:
    """`photos`, uploaded to S3 and prepared into HDFS."""
    store = open_store(s3.url)
    for file in photos.rglob("*.jpg"):
        store.upload(file, f"photos/{file.relative_to(photos)}")
    root = f"{hdfs.url}/root"
    done = imagesprint("prepare", s3.url / "photos", root, "--variants", "full,32", "--shards", "3", "--workers", "2")
    assert done.code == 0, done.stderr
    return root


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Moves to another folder and an empty cache, as a new machine would; what was there is gone."""

    def move() -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        (tmp_path / "machine").mkdir()
        monkeypatch.chdir(tmp_path / "machine")
        monkeypatch.setenv("IMAGESPRINT_CACHE", str(tmp_path / "machine" / "cache"))

    return move


def kill_all_by(environment: str) -> None:
    """Kill -9 every process that has `environment`, NAME=VALUE: the command, its ranks, fetcher and mirror."""
    name, _, value = environment.partition("=")
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(name) == value:
                process.kill()
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue


@pytest.mark.parametrize("processes", ["1", "2"])
def test_from_photos_to_answers_with_everything_killed_in_between(
    processes: str, prepared: str, s3: S3, photos: Path, photo_root: Path, tiny_recipe: Recipe, tmp_path: Path,
    command: list[str], imagesprint: Callable[..., Any], elsewhere: Callable[[], None],
) -> None:  # fmt: skip
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(to_toml(tiny_recipe))
    how = ("--device", "cpu", "--processes", processes)
    undisturbed = imagesprint("train", recipe, "--data", photo_root, "--output", tmp_path / "run", *how)
    assert undisturbed.code == 0, undisturbed.stderr

    run = s3.url / "run"
    words = ["train", recipe, "--data", prepared, "--output", run, *how, "--checkpoint-every", "3"]
    mark = f"JOURNEY={os.urandom(8).hex()}"
    struck = subprocess.Popen([*command, *map(str, words)], env=os.environ | dict([mark.split("=")]))
    store, end = open_store(run), time.monotonic() + PATIENCE
    while store.stat("checkpoints/step-0000009.pt") is None:
        assert struck.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    kill_all_by(mark)
    struck.wait()
    assert store.stat("result.json") is None

    elsewhere()
    done = imagesprint(*words, "--json")
    assert done.code == 0, done.stderr
    assert done.json["checkpoint"] == f"{run}/checkpoints/step-0000032.pt"
    store.download("checkpoints/step-0000032.pt", tmp_path / "last.pt")
    found = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    wanted = torch.load(tmp_path / "run/checkpoints/step-0000032.pt", weights_only=True)["model"]
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())

    judged = imagesprint("evaluate", run, "--data", prepared, "--device", "cpu", "--json")
    assert judged.code == 0, judged.stderr
    assert judged.json["best"]["num_images"] == 18
    reported = imagesprint("report", run)
    assert reported.code == 0, reported.stderr
    assert store.stat("report.html") is not None
    photo = photos / "val/china/00.jpg"
    predicted = imagesprint("predict", run, photo, "--json")
    assert predicted.code == 0, predicted.stderr
    by_disk = imagesprint("predict", tmp_path / "run", photo, "--json")
    assert predicted.json[0]["top"] == by_disk.json[0]["top"]
