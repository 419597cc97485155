"""What `bench predict` prints is complete and hangs together; how fast this machine is, no test says."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagesprint.cli import bench_predict as command
from imagesprint.cli.main import main
from imagesprint.cli.output import to_json
from imagesprint.diagnosis import bench_predict
from imagesprint.files import write_text
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml


@pytest.fixture
def recipe(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe to measure quickly: each runtime is a process, one of them compiles for minutes, one is missing here."""
    monkeypatch.setattr(bench_predict, "CALL_SECONDS", 0.01)
    monkeypatch.setattr(bench_predict, "ROUNDS", 1)
    monkeypatch.setattr(bench_predict, "PROGRAMS", (("onnxruntime", "int8"),))
    path = tmp_path / "tiny.toml"
    write_text(path, to_toml(tiny_recipe))
    return path


def test_json_plot_and_text(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(command, "show", lambda _, value, text: printed.extend((json.loads(to_json(value)), text)))
    plot = tmp_path / "plot.png"
    words = ["bench", "predict", str(recipe), "--batch-sizes", "2,1", "--threads", "1", "--device", "cpu"]
    assert main([*words, "--plot", str(plot)]) == 0
    result, text = printed
    assert (result["bench"], result["model"]) == ("predict", "resnet20")
    assert {"device", "versions", "decoder", "left_out"} < set(result)
    assert (result["num_classes"], result["image_size"]) == (1000, 24)
    kinds = [(call["batch_size"], call["decoding"], call["runtime"], call["precision"]) for call in result["calls"]]
    assert kinds == [(size, decoding, "onnxruntime", "int8") for size in (1, 2) for decoding in (False, True)]
    for call in result["calls"]:
        assert 0 < call["p50"] <= call["p90"] <= call["p99"]
        assert call["num_calls"] >= 2
        assert call["images_per_second"] <= call["batch_size"] / (call["p50"] / 2)
    assert f"drawn in {plot}" in capsys.readouterr().err
    with Image.open(plot) as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # something is drawn

    lines = text.splitlines()
    assert lines[2].startswith("resnet20, 1,000 classes, 24 px, decoder ")
    assert [line.split()[:5] for line in lines[5:7]] == [
        ["1", "1", source, "onnxruntime", "int8"] for source in ("pixels", "JPEG")
    ]
    assert max(map(len, lines[2:])) <= 100


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: object) -> str:
        assert main(["bench", "predict", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert "did you mean small?" in said("smal")
    assert said(tmp_path).startswith(f"error: {tmp_path} holds no checkpoints/step-*.pt\nhint: ")
    assert "'x' is not a whole number of at least 1" in said("small", "--batch-sizes", "1,x")
    plot = tmp_path / "no" / "plot.png"
    assert said("small", "--plot", plot).startswith(f"error: cannot write {plot}: there is no folder {plot.parent}\n")
