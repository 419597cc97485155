"""The result does not depend on the number of ranks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Train = Callable[..., Any]


def after(run: Path, step: int) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / f"step-{step:07d}.pt", weights_only=True)
    return content


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12))


SETTINGS = ("precision=fp64", "ema_decay=0.9", "patience=1", "recalibrate_bn=2")
WORDS = ("--checkpoint-every", 1, *(word for setting in SETTINGS for word in ("--set", setting)))


@pytest.fixture(scope="module")
def runs(
    imagesprint: Train, photo_root: Path, tiny_recipe: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """The 32 steps in float64 on 1, 2 and 4 processes, with a checkpoint after each; the last is recalibrated."""
    from imagesprint.recipes.serialization import to_toml

    folder = tmp_path_factory.mktemp("ranks")
    (folder / "tiny.toml").write_text(to_toml(tiny_recipe))
    made = {}
    for processes in (1, 2, 4):
        words = ["--data", photo_root, "--output", folder / str(processes), "--processes", processes, *WORDS]
        done = imagesprint("train", folder / "tiny.toml", *words)
        assert done.code == 0, done.stderr
        made[processes] = folder / str(processes)
    return made


@pytest.mark.parametrize("processes", [2, 4])
def test_thirty_steps_in_float64_are_the_same_on_any_number_of_ranks(runs: dict[int, Path], processes: int) -> None:
    alone, many = after(runs[1], 30), after(runs[processes], 30)
    statistics = [key for key in alone["model"] if "running" in key]
    assert len(statistics) == 2 * 21
    for part in ("model", "ema"):
        for key, value in alone[part].items():
            assert relative(many[part][key], value) < 1e-5, (part, key)
    moved = alone["model"]["layer1.0.bn1.running_mean"]
    assert moved.abs().max() > 1e-3  # the statistics did move, so that their agreement means something
    for ours, theirs in zip(rows(runs[1]), rows(runs[processes]), strict=True):
        for key in ("step", "epoch", "lr", "batch_size", "image_size", "top1", "top5"):
            assert ours[key] == theirs[key], key
        assert abs(ours["cross_entropy"] - theirs["cross_entropy"]) < 1e-5 * ours["cross_entropy"]


@pytest.mark.parametrize("processes", [2, 4])
def test_statistics_that_are_measured_anew_are_the_same_on_any_number_of_ranks(
    runs: dict[int, Path], processes: int
) -> None:
    alone, many = after(runs[1], 32), after(runs[processes], 32)
    assert alone["recalibrated"]
    assert many["recalibrated"]
    assert not after(runs[1], 31)["recalibrated"]
    for key, value in alone["ema"].items():
        assert relative(many["ema"][key], value) < 1e-5, key


@pytest.mark.parametrize("processes", [2, 4])
def test_one_step_of_four_micro_batches_is_the_same_on_any_number_of_ranks(
    runs: dict[int, Path], processes: int
) -> None:
    alone, many = after(runs[1], 1), after(runs[processes], 1)
    for part in ("model", "ema"):
        for key, value in alone[part].items():
            assert relative(many[part][key], value) < 1e-10, (part, key)
    for ours, theirs in zip(alone["optimizer"]["state"].values(), many["optimizer"]["state"].values(), strict=True):
        assert relative(theirs["momentum_buffer"], ours["momentum_buffer"]) < 1e-10  # the gradients and the decay


def test_evaluation_counts_do_not_depend_on_the_ranks(
    runs: dict[int, Path], imagesprint: Train, photo_root: Path, tmp_path: Path
) -> None:
    newest = runs[1] / "checkpoints" / "step-0000030.pt"
    checkpoint = shutil.copy(newest, tmp_path)  # outside of a run no result is kept
    results = []
    for processes in (1, 2, 3):
        done = imagesprint("evaluate", checkpoint, "--data", photo_root, "--processes", processes, "--json")
        assert done.code == 0, done.stderr
        results.append(done.json["checkpoints"][0])
    assert results[0]["num_images"] == 18
    for result in results[1:]:
        for key in ("num_images", "top1", "top5", "mean_class_accuracy", "step", "epoch"):
            assert result[key] == results[0][key]
        assert abs(result["loss"] - results[0]["loss"]) < 1e-6


def test_ranks_that_cannot_share_the_micro_batches_are_refused(
    imagesprint: Train, photo_root: Path, tmp_path: Path
) -> None:
    done = imagesprint("train", "small", "--data", photo_root, "--output", tmp_path / "run", "--processes", 3)
    assert done.code == 2
    assert "3" in done.stderr
    assert "1, 2, 4" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_torchrun_starts_the_same_ranks(runs: dict[int, Path], photo_root: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    words = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
        "--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "imagesprint", "train",
        str(runs[1].parent / "tiny.toml"), "--data", str(photo_root), "--output", str(tmp_path / "run"),
        *map(str, WORDS),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    model = after(tmp_path / "run", 30)["model"]
    for key, value in after(runs[2], 30)["model"].items():
        assert torch.equal(model[key], value), key
