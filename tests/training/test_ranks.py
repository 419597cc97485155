"""Neither the number of ranks nor when it is killed changes what a training comes to, whatever its recipe has on."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import TRANSFORM_DRAWS, Phase, Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.recipes.validation import validate

Train = Callable[..., Any]
EPOCH = 4  # steps
TRAINED = 6 * EPOCH  # the steps whose rate is not 0: after them nothing gets better
WORDS = ("--checkpoint-every", 1, "--json")


def after(run: Path, step: int) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / f"step-{step:07d}.pt", weights_only=True)
    return content


def rows(run: Path, name: str = "metrics") -> list[dict[str, Any]]:
    """The whole ones: the last may be cut short where the run was killed."""
    lines = (run / f"{name}.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line[-1] == "\n"]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12))


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    """All that can be on together, in float64. It ends early, since without a rate nothing gets better."""
    made = replace(
        tiny_recipe,
        name="everything",
        stem="deep",
        shortcut="pool",
        attention="se",
        width=0.5,
        blurpool=True,
        optimizer="muon",
        weight_decay=1e-2,
        rest_lr=3.0,
        backbone_lr=0.5,
        layer_decay=0.9,
        loss="bce",
        ema_decay=0.8,
        augment=("pad 2", "trivial", "jitter 0.3", "grey 0.1", "mixup 0.2", "cutmix 1", "erasing 0.3"),
        balance=True,
        bad_records="substitute",
        eval_shape="rectangle",
        eval_every=2,
        patience=3,
        recalibrate_bn=10,
        phases=(
            Phase((0, 2), (0.02, 0.02), "constant", 16, 4, 16, "32", 0.3, freeze="backbone"),
            Phase((2, 4), (0.02, 0.02), "constant", 16, 4, 16, "32", 0.3, freeze="stages 2"),
            Phase((4, 6), (0.02, 0.01), "cosine", 16, 4, 20, "full", 0.3),
            Phase((6, 20), (0.0, 0.0), "constant", 16, 4, 20, "full", 0.3, freeze="stages 1"),
        ),
    )
    assert {entry.split()[0] for entry in made.augment} == TRANSFORM_DRAWS.keys()
    validate(made)
    return made


@pytest.fixture(scope="module")
def runs(
    imagesprint: Train, photo_root: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """The training on 1, 2 and 4 processes, with a checkpoint after each step; the last is recalibrated."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "recipe.toml").write_text(to_toml(recipe))
    made, ends = {}, set()
    for processes in (1, 2, 4):
        words = ["--data", photo_root, "--output", folder / str(processes), "--processes", processes, *WORDS]
        done = imagesprint("train", folder / "recipe.toml", *words)
        assert done.code == 0, done.stderr
        assert done.json["ended_early"]
        made[processes] = folder / str(processes)
        ends.add(done.json["steps"])
    (end,) = ends
    assert TRAINED <= end < 20 * EPOCH
    return made


def last_step(run: Path) -> int:
    return rows(run)[-1]["step"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("processes", [2, 4])
def test_a_training_in_float64_is_the_same_on_any_number_of_ranks(runs: dict[int, Path], processes: int) -> None:
    alone, many = after(runs[1], TRAINED), after(runs[processes], TRAINED)
    statistics = [key for key in alone["model"] if "running" in key]
    assert statistics
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
    end = last_step(runs[1])
    alone, many = after(runs[1], end), after(runs[processes], end)
    assert alone["recalibrated"]
    assert many["recalibrated"]
    assert not after(runs[1], end - 1)["recalibrated"]
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
        for key, value in ours.items():
            assert relative(theirs[key], value) < 1e-10, key  # the gradients and the decay


def test_the_stream_is_the_same_on_any_number_of_ranks(photo_root: Path, recipe: Recipe) -> None:
    digests = set()
    for world_size in (1, 2, 4):
        loaders = [
            Loader(photo_root, recipe, rank, world_size, threads=1, end_step=TRAINED) for rank in range(world_size)
        ]
        streams, digest = [iter(loader) for loader in loaders], hashlib.sha256()
        for micro_batch in range(4 * TRAINED):
            batch = next(streams[micro_batch % world_size])
            for tensor in (batch.sample_ids, batch.labels, batch.images, batch.draws):
                digest.update(tensor.numpy().tobytes())
        assert all(next(stream, None) is None for stream in streams)
        digests.add(digest.hexdigest())
    assert len(digests) == 1


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_killed_twice_it_comes_to_the_bits_of_one_that_was_not(
    runs: dict[int, Path], imagesprint: Train, warm_commands: Any, photo_root: Path, tmp_path: Path
) -> None:
    """Within the second frozen phase, and while it measures the statistics after the last step."""
    whole, struck, printed = runs[1], tmp_path / "struck", tmp_path / "printed"
    printed.mkdir()
    words = ("train", whole.parent / "recipe.toml", "--data", photo_root, "--output", struck, *WORDS)
    end, expected = last_step(whole), rows(whole, "evaluations")
    assert [row["step"] for row in expected[-2:]] == [end, end]  # before and after the statistics

    command = warm_commands.start(printed, *words)
    until((struck / "checkpoints" / f"step-{3 * EPOCH - 1:07d}.pt").exists)
    command.end(signal.SIGKILL)
    assert not (struck / "checkpoints" / f"step-{4 * EPOCH:07d}.pt").exists(), "it was killed too late to test anything"

    command = warm_commands.start(printed, *words)
    until(lambda: len(rows(struck, "evaluations")) == len(expected) - 1)
    command.end(signal.SIGKILL)
    assert not after(struck, end)["recalibrated"], "it was killed too late to test anything"

    done = imagesprint(*words)
    assert done.code == 0, done.stderr
    assert "ended early after step" in done.stderr
    assert rows(struck, "evaluations") == expected
    measured = ("seconds", "images_per_second", "data_wait", "stages", "ranks")
    for ours, theirs in zip(rows(struck), rows(whole), strict=True):
        assert {key: value for key, value in ours.items() if key not in measured} == {
            key: value for key, value in theirs.items() if key not in measured
        }
    for step in (TRAINED, end):
        pair = after(struck, step), after(whole, step)
        for part in ("model", "ema", "recalibrated"):
            torch.testing.assert_close(pair[0][part], pair[1][part], rtol=0, atol=0)
        states = [content["optimizer"]["state"] for content in pair]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    assert "nothing to do" in imagesprint(*words).stderr

    # As a kill between the last checkpoint and its row leaves it
    (struck / "result.json").unlink()
    lines = (struck / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (struck / "evaluations.jsonl").write_text("".join(lines[:-1]))
    assert imagesprint(*words).json["loss"] == expected[-1]["loss"]
    assert rows(struck, "evaluations") == expected


def test_evaluation_counts_do_not_depend_on_the_ranks(
    runs: dict[int, Path], imagesprint: Train, photo_root: Path, tmp_path: Path
) -> None:
    newest = runs[1] / "checkpoints" / f"step-{TRAINED:07d}.pt"
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
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
        "--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "imagesprint", "train",
        str(runs[1].parent / "recipe.toml"), "--data", str(photo_root), "--output", str(tmp_path / "run"),
        *map(str, WORDS),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    model = after(tmp_path / "run", TRAINED)["model"]
    for key, value in after(runs[2], TRAINED)["model"].items():
        assert torch.equal(model[key], value), key
