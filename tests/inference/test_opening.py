"""One way to open a model: what it says of itself, the same answers in every runtime, and what is no model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from imagesprint.checkpoints.weights import load_model
from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.inference import opening
from imagesprint.inference.exporting import Exported
from imagesprint.inference.opening import OpenModel, open_model
from imagesprint.storage.url import Place, Url
from s3_server import S3


@pytest.fixture
def onnx_file(digit_export: Exported, tmp_path: Path) -> Path:
    """`digit_run`, exported."""
    return Path(shutil.copy(digit_export.file, tmp_path / "model.onnx"))


def opened(place: Place, runtime: str = "auto", *, int8: bool = False) -> OpenModel:
    return open_model(place, runtime, "cpu", Console.silent(), int8=int8, threads=1)


def test_every_runtime_says_the_same_of_every_form(
    digit_run: Path, digit_checkpoint: Path, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "graph", lambda _: onnx_file.read_bytes())  # it was exported once already
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = load_model(digit_run)(torch.from_numpy(images)).numpy()
    models = [
        opened(digit_run, "torch"),
        opened(digit_checkpoint, "onnx"),
        opened(onnx_file, "onnx"),
        opened(onnx_file),
    ]
    for model in models:
        assert (model.name, model.step, model.image_size, model.resize) == ("resnet20", 10, 20, 24)
        assert model.classes == model.class_texts == ("one", "two", "zero")
        assert (model.precision, model.batch_size) == ("fp32", 32)
        assert np.abs(model.infer(images) - expected).max() < 1e-4
        assert model.infer(images[:1]).shape == (1, 3)
    assert np.array_equal(models[0].infer(images), expected)  # to the bit
    assert models[0].runtime == f"torch {torch.__version__}"
    assert models[1].runtime.startswith("onnxruntime 1.")
    assert [(model.place, model.checkpoint) for model in models[:3]] == [
        (digit_run, digit_checkpoint),
        (digit_checkpoint, digit_checkpoint),
        (onnx_file, onnx_file),
    ]


def test_predict_takes_an_exported_file(
    digit_images: Path, digit_run: Path, onnx_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for model in (digit_run, onnx_file):
        assert main(["predict", str(model), str(digit_images / "one"), "--top", "1", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    ours, theirs = ([(entry["image"], entry["top"][0]["name"]) for entry in one] for one in said)
    assert ours == theirs
    assert len(ours) > 20


def changed(onnx_file: Path, change: Callable[[bytes], bytes]) -> Path:
    file = onnx_file.with_name("changed.onnx")
    file.write_bytes(change(onnx_file.read_bytes()))
    return file


def flipped(content: bytes) -> bytes:
    """With one bit of a weight changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_damaged_file_is_found(onnx_file: Path) -> None:
    for damage in (flipped, lambda content: content[:-1], lambda content: content + b"\n"):
        with pytest.raises(CheckpointError, match=r"changed\.onnx is damaged, or was changed since export wrote it"):
            opened(changed(onnx_file, damage))
    for tenths in (3, 9):  # without its end it says nothing of imagesprint
        file = changed(onnx_file, lambda content: content[: len(content) * tenths // 10])  # noqa: B023
        with pytest.raises(CheckpointError, match=r"changed\.onnx is no ONNX file of imagesprint"):
            opened(file)


def test_what_is_none_of_ours(onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = onnx.load(onnx_file)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    (tmp_path / "empty.onnx").touch()
    for name in ("other", "empty"):
        file = tmp_path / f"{name}.onnx"
        assert main(["predict", str(file), "a.jpg"]) == 1
        assert f"error: {file} is no ONNX file of imagesprint: " in capsys.readouterr().err
    for name in ("gone.onnx", "folder.onnx"):
        assert main(["predict", str(tmp_path / name), "a.jpg"]) == 2
        assert capsys.readouterr().err.startswith(f"error: there is no file {tmp_path / name}\nhint: ")


def test_what_does_not_go_together(digit_run: Path, onnx_file: Path) -> None:
    with pytest.raises(UsageError, match="PyTorch does not run"):
        opened(onnx_file, "torch")
    with pytest.raises(UsageError, match="is in fp32, and needs its run and images"):
        opened(onnx_file, int8=True)
    with pytest.raises(UsageError, match="OpenVINO, and any model in int8, runs on the CPU"):
        open_model(digit_run, "openvino", "cuda", Console.silent())


def test_a_file_at_a_url(onnx_file: Path, s3: S3, upload: Callable[[Path, Url], Url]) -> None:
    place = upload(onnx_file.parent, s3.url) / onnx_file.name
    model = opened(place)
    assert (model.place, model.checkpoint) == (place, place)
    assert model.infer(np.zeros((2, 20, 20, 3), np.uint8)).shape == (2, 3)
    with pytest.raises(UsageError, match=f"{s3.url}/gone.onnx holds no checkpoints"):
        opened(s3.url / "gone.onnx")
