"""Exported files run in their own runtimes at any shape, say what they are, and appear only when they are right."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from imagesprint.checkpoints.weights import TrainedModel, load_model, start_from
from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.errors import CheckError, UsageError
from imagesprint.inference import exporting
from imagesprint.inference.exporting import LIMIT, Exported, export, greatest_difference
from imagesprint.inference.formats import Infer, graph, in_onnx_runtime, in_torch
from imagesprint.model.efficientnet import HalvingConv2d
from imagesprint.model.resnet import BasicBlock, Variant


def run_export(run: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["export", str(run), str(file), "--json"]) == 0
    done: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (done["file"], done["bytes"]) == (str(file), file.stat().st_size)
    assert 0 <= done["max_difference"] < LIMIT
    return done


def check_shapes(model: TrainedModel, infer: Infer) -> None:
    """Compare with PyTorch on noise of shapes that nobody exported with."""
    ours = in_torch(model)
    for shape in ((1, 20, 20, 3), (5, 33, 47, 3), (3, 64, 24, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        assert np.abs(infer(images) - ours(images)).max() < LIMIT


def test_onnx(digit_run: Path, digit_export: Exported) -> None:
    done = digit_export
    assert (done.format, done.precision, done.runtime) == ("onnx", "fp32", f"onnxruntime {onnxruntime.__version__}")
    assert done.bytes == done.file.stat().st_size
    assert 0 < done.max_difference < LIMIT
    session = onnxruntime.InferenceSession(done.file)
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 3])
    described = json.loads(session.get_modelmeta().custom_metadata_map["imagesprint"])
    assert [entry["name"] for entry in described["classes"]] == ["one", "two", "zero"]
    check_shapes(load_model(digit_run), lambda images: session.run(None, {"images": images})[0])
    kinds = [node.op_type for node in onnx.load(done.file).graph.node]
    assert kinds.count("Conv") == 21  # and as many batch norms, which are folded into them
    assert kinds.count("BatchNormalization") == 1  # the normalisation of the input


def test_torch(digit_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.pt2"
    assert run_export(digit_run, file, capsys)["format"] == "torch"
    described = {"imagesprint.json": ""}
    program = torch.export.load(file, extra_files=described)
    assert json.loads(described["imagesprint.json"])["image_size"] == 20
    check_shapes(load_model(digit_run), in_torch(program.module()))


def test_safetensors(
    digit_run: Path, digit_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.bin"
    assert main(["export", str(digit_checkpoint), str(file), "--format", "safetensors"]) == 0
    assert "logits differ by at most 0 (limit 0.001) on two images" in capsys.readouterr().out
    file = tmp_path / "weights.safetensors"
    run_export(digit_run, file, capsys)
    model, weights = load_model(digit_run), load_file(file)
    assert {key: value.tolist() for key, value in weights.items()} == {
        key: value.tolist() for key, value in model.network.state_dict().items()
    }
    described = json.loads((tmp_path / "weights.safetensors.json").read_text())
    assert (described["model"], described["recipe"]["name"], described["step"]) == ("resnet20", "digits", model.step)
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["imagesprint"]) == described
    assert start_from(model.network, file) == []  # it serves as a start of training, too


def test_parts_that_not_all_networks_have(digit_run: Path) -> None:
    """A block of ResNet-D with ECA, behind EfficientNet's padding; of whole networks each block takes seconds."""
    block = BasicBlock(3, 8, 2, Variant(shortcut="pool", attention="eca", zero_init=False))
    network = nn.Sequential(HalvingConv2d(3, 3, 5, groups=3), block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = TrainedModel(network, load_model(digit_run).recipe, tuple("abcdefgh"), 1).eval()
    check_shapes(model, in_onnx_runtime(graph(model), threads=1))


def test_another_model_differs(digit_run: Path) -> None:
    model, other = load_model(digit_run), load_model(digit_run)
    with torch.no_grad():
        other.network.get_parameter("fc.bias")[1] += 0.01
    assert greatest_difference(model, in_torch(other)) == pytest.approx(0.01, rel=1e-3)
    with torch.no_grad():
        other.network.get_parameter("fc.bias")[1] = torch.nan
    assert np.isnan(greatest_difference(model, in_torch(other)))


def test_a_file_that_differs_is_not_written(
    digit_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporting, "LIMIT", -1.0)
    file = tmp_path / "model.safetensors"
    file.write_text("what was there")
    assert main(["export", str(digit_run), str(file)]) == CheckError.exit_code
    assert f"error: {file} was not written: read again, its logits differ" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there"]


def test_wrong_usage(
    digit_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: object) -> str:
        assert main(["export", str(digit_run), *map(str, words)]) == 2
        return capsys.readouterr().err

    assert "error: the name model.bin does not say which format is meant\nhint: give --format onnx" in said("model.bin")
    assert f"error: cannot write {tmp_path}: it is a folder\nhint: " in said(tmp_path, "--format", "onnx")
    (tmp_path / "file").touch()
    for folder in ("gone", "file"):
        file = tmp_path / folder / "model.onnx"
        assert f"error: cannot write {file}: there is no folder {file.parent}\nhint: " in said(file)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    missing = said(tmp_path / "model.onnx")
    assert "error: the package onnxruntime cannot be imported: " in missing
    assert "hint: pip install 'imagesprint[export]'" in missing


def test_a_disk_that_is_full(digit_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        assert main(["export", str(digit_run), str(file)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"error: cannot write {file}: File too large\nhint: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_file_stays_when_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("what was there")
    with pytest.raises(UsageError, match="holds no checkpoints"):
        export(tmp_path, file, None, Console(quiet=True))
    assert file.read_text() == "what was there"
