"""What `bench step` and `bench train` print is complete and hangs together; how fast a machine is, no test says."""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagesprint.cli import bench
from imagesprint.cli.main import main
from imagesprint.cli.output import to_json
from imagesprint.diagnosis import bench_step
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml

ALL = {
    "bench",
    "device",
    "world_size",
    "threads",
    "versions",
    "recipe",
    "model",
    "precision",
    "compiled",
    "data",
    "steps",
    "phases",
}
SHAPE = {"image_size", "batch_size", "micro_batch", "freeze", "images_per_second", "compile_seconds"}
SPEED = {"seconds_per_step", "slowest_step", "peak_memory"}
STEP = SPEED | {"seconds_by_part", "flops_per_image", "flops_per_second"}
LIMITS = {"share_of_matmul", "bytes_per_image", "bytes_per_second", "memory_bound", "share_of_memory_bound"}
TRAIN = {"synthetic_images_per_second", "share_of_synthetic", "data_wait_seconds", "data_wait", "mean_bytes"}


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe))
    return path


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a command printed last: the value of its JSON and its text."""
    printed: list[Any] = []
    monkeypatch.setattr(bench, "show", lambda _, value, text: printed.extend((json.loads(to_json(value)), text)))
    return printed


def check_plot(path: Path) -> None:
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # something is drawn


def check_width(text: str) -> None:
    table = text[text.index("\npx ") :]  # above it are versions and paths, as long as they are
    assert max(map(len, table.splitlines())) <= 100


def test_step(tiny: Path, tmp_path: Path, said: list[Any]) -> None:
    words = ["bench", "step", str(tiny), "--device", "cpu", "--steps", "2", "--num-train", "320"]
    words += ["--set", "augment=pad 2,cutmix 1"]  # noise has draws, too
    assert main([*words, "--plot", str(tmp_path / "plot.png")]) == 0
    check_plot(tmp_path / "plot.png")
    result, text = said
    assert set(result) == ALL | {"ceilings", "projection"}
    assert (result["bench"], result["precision"], result["world_size"], result["steps"]) == ("step", "fp64", 1, 2)
    assert result["versions"]["torch"] == metadata.version("torch")
    assert min(result["ceilings"][key] for key in ("copy_bytes_per_second", "matmul_flops_per_second")) > 0
    assert [row["image_size"] for row in result["phases"]] == [16, 20]
    for row in result["phases"]:
        assert set(row) == SHAPE | STEP | LIMITS
        assert list(row["seconds_by_part"]) == ["input", "forward", "backward", "reduction", "update"]
        assert min(row["seconds_by_part"].values()) > 0
        assert row["seconds_by_part"]["backward"] > row["seconds_by_part"]["reduction"]
        assert row["flops_per_second"] == pytest.approx(row["flops_per_image"] * row["images_per_second"])
        assert row["peak_memory"] > 10e6
        assert row["compile_seconds"] == 0
        share = row["bytes_per_second"] / result["ceilings"]["copy_bytes_per_second"]
        assert row["share_of_memory_bound"]["eager"] == pytest.approx(share)
    projection = result["projection"]
    assert [row["steps"] for row in projection["phases"]] == [80, 80]
    expected = sum(80 * 16 / row["images_per_second"] for row in result["phases"])
    assert projection["seconds"] == pytest.approx(expected)
    assert text.count("\npx ") == 2
    assert "derived, not measured: the whole recipe on 320 images" in text
    check_width(text)


def test_variants_of_one_size(
    tiny: Path, said: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench_step.VARIANTS, "compiled", ("off", False))  # the compiler takes a second a layer
    words = ["bench", "step", str(tiny), "--device", "cpu", "--steps", "1", "--variants"]
    assert main([*words, "16"]) == 0
    result, text = said
    assert set(result) == ALL | {"ceilings", "variants", "left_out"}
    assert [row["image_size"] for row in result["phases"]] == [16]
    assert [(row["image_size"], row["variant"]) for row in result["variants"]] == [(16, "eager"), (16, "compiled")]
    assert all(set(row) == SHAPE | SPEED | {"variant"} for row in result["variants"])
    assert list(result["left_out"]) == ["fused"]
    assert "fused is left out: its kernels need a GPU" in text
    check_width(text)
    assert main([*words, "17"]) == 2
    assert "its sizes are 16, 20" in capsys.readouterr().err


def test_train(tiny: Path, photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "train", str(tiny), "--data", str(photo_root), "--device", "cpu", "--steps", "2", "--json"]
    assert main([*words, "--plot", str(tmp_path / "plot.png")]) == 0
    check_plot(tmp_path / "plot.png")
    result = json.loads(capsys.readouterr().out)
    assert set(result) == ALL | {"decoder", "rounds"}
    assert (result["bench"], result["data"]) == ("train", str(photo_root))
    assert [row["image_size"] for row in result["phases"]] == [16, 20]
    for row in result["phases"]:
        assert set(row) == SHAPE | TRAIN
        assert row["images_per_second"] > 0
        assert 0 <= row["data_wait"] < 1
        assert row["data_wait_seconds"] < 32 / row["images_per_second"] * 2


def test_ranks_share_the_work_and_one_of_them_prints(
    imagesprint: Callable[..., Any], tiny: Path, photo_root: Path
) -> None:
    frozen = ("--set", "phases.1.freeze=stages 1")
    done = imagesprint("bench", "train", tiny, "--data", photo_root, "--steps", "1", "--processes", 2, *frozen)
    assert done.code == 0, done.stderr
    assert done.stdout.count("medians of 3 rounds of 1 steps on images") == 1
    assert "tiny: resnet20, fp64, eager, 2 ranks of " in done.stdout
    assert "\n20     16      4  stages 1 " in done.stdout
    check_width(done.stdout)


def test_errors(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: object) -> str:
        assert main(["bench", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert said("step", tiny, "--processes", 3).startswith("error: 3 ranks cannot share the 4 micro-batches")
    assert said("step", tiny, "--num-train", 8, "--device", "cpu").startswith("error: phases.0: batch_size 16 is more ")
    assert said("step", tiny, "--set", "sed=1").startswith("error: ")
    assert said("train", tiny, "--data", tmp_path / "no").startswith("error: ")
    missing = tmp_path / "no" / "plot.png"
    assert said("step", tiny, "--plot", missing).startswith(f"error: cannot write {missing}: there is no folder ")
