"""A short form of `benchmarks/bottlenecks.py`: real trainings in which the narrowest stage was planted."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.checkpoints import writer
from imagesprint.checkpoints.retention import Retention
from imagesprint.checkpoints.writer import write_checkpoint
from imagesprint.console import Console
from imagesprint.diagnosis.doctor import Diagnosis, diagnose_run
from imagesprint.prepare.preparing import prepare
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.training.training import TrainingOptions, train

QUIET = Console(quiet=True)
NEVER = 10**9  # steps


def recipe(steps: int, model: str = "resnet20", micro_batch: int = 4, image_size: int = 16) -> Recipe:
    return Recipe(
        name="planted",
        model=model,
        precision="fp32",
        eval_every=0,
        eval_resize=16,
        eval_image_size=16,
        eval_batch_size=2,
        phases=(Phase(None, (1e-3, 1e-3), "constant", 4, micro_batch, image_size, steps=(0, steps)),),
    )


@pytest.fixture(scope="module")
def large_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos of 2,560 × 1,708 pixels for training and two for validation."""
    folder = tmp_path_factory.mktemp("large")
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        image = Image.fromarray(photo).resize((2560, 1708))
        for split, turns in (("train", (0, 1)), ("val", (2,))):
            (folder / "photos" / split / name).mkdir(parents=True)
            for turn in turns:
                image.rotate(turn).save(folder / "photos" / split / name / f"{turn}.jpg", quality=90)
    prepare(folder / "photos", folder / "root", variants=("full",), workers=1, console=QUIET)
    return folder / "root"


def trained(recipe: Recipe, root: Path, run: Path, checkpoint_every: int = NEVER) -> Diagnosis:
    options = TrainingOptions("cpu", checkpoint_every=checkpoint_every, keep=Retention.parse("last:1"))
    train(recipe, root, run, options, QUIET)
    return diagnose_run(run, root)


def test_decoding_by_one_thread(large_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RANK", raising=False)
    found = trained(recipe(20), large_root, tmp_path / "run")
    assert found.bottleneck == "decode"
    (phase,) = found.phases
    assert (phase.limits[0].images_per_second or 0.0) < 1.5 * phase.images_per_second
    first = found.checks[0]
    assert (first.name, first.status) == ("phase 0: decode", "warning")
    assert "imagesprint prepare SOURCE ROOT --variants 160, and --set phases.0.source=160" in first.hint


def test_a_slow_step(photo_root: Path, tmp_path: Path) -> None:
    found = trained(recipe(12, "resnet18", image_size=48), photo_root, tmp_path / "run")
    assert found.bottleneck == "compute"
    assert found.checks[0].status == "ok"


def test_checkpoints_that_come_too_often(photo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes half a second more to write than this disk needs."""

    def written_slowly(run: Path, content: Any) -> Path:
        time.sleep(0.5)
        return write_checkpoint(run, content)

    monkeypatch.setattr(writer, "write_checkpoint", written_slowly)
    found = trained(recipe(6), photo_root, tmp_path / "run", checkpoint_every=1)
    assert found.bottleneck == "checkpoint"
    assert "times as seldom: --checkpoint-every" in found.checks[0].hint


def test_a_straggling_rank_is_named(photo_root: Path, tmp_path: Path, command: list[str]) -> None:
    """Rank 1 of two stands still for four fifths of the time."""
    run, toml = tmp_path / "run", tmp_path / "planted.toml"
    toml.write_text(to_toml(recipe(30, micro_batch=2)))
    words = ["train", toml, "--data", photo_root, "--output", run, "--checkpoint-every", NEVER, "--processes", 2]
    launcher = subprocess.Popen([*command, *map(str, words), "--quiet"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    _stop_now_and_then(launcher, lambda: (run / "metrics.jsonl").exists())
    assert launcher.wait() == 0
    found = diagnose_run(run, None)
    assert found.bottleneck == "straggler"
    assert "for rank 1" in found.checks[0].detail


def _stop_now_and_then(launcher: subprocess.Popen[bytes], begun: Callable[[], bool]) -> None:
    while not begun() and launcher.poll() is None:
        time.sleep(0.02)
    ranks = [rank for rank in psutil.Process(launcher.pid).children() if rank.environ().get("RANK") == "1"]
    while launcher.poll() is None:
        for number, seconds in ((signal.SIGSTOP, 0.08), (signal.SIGCONT, 0.02)):
            with suppress(psutil.NoSuchProcess):
                ranks[0].send_signal(number)
            time.sleep(seconds)
