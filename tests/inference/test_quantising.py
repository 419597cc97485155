"""int8: the graph is rounded where it should be, answers as the original does, and is refused where it does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from imagesprint.checkpoints.weights import load_model
from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.errors import CheckError, CheckpointError, UsageError
from imagesprint.inference import int8, quantising
from imagesprint.inference.exporting import Exported, ToInt8, export
from imagesprint.inference.opening import open_model
from imagesprint.inference.quantising import quantised
from imagesprint.runs.directory import RunDirectory

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 11, 3), dtype=np.uint8)


def small_graph() -> bytes:
    """Normalise, 3×3 convolution of 8 channels with ReLU, max pool, 1×1 with a residual, mean, linear layer."""
    draw = np.random.default_rng(1)
    weights = {
        "mean": np.array([121, 115, 100]).reshape(3, 1, 1),
        "w1": draw.normal(0, 0.01, (8, 3, 3, 3)) * np.logspace(-2, 1, 8).reshape(8, 1, 1, 1),
        "b1": draw.normal(0, 1, 8),
        "w2": draw.normal(0, 0.3, (8, 8, 1, 1)),
        "b2": draw.normal(0, 1, 8),
        "axes": np.array([2, 3]),
        "w3": draw.normal(0, 1, (8, 4)),
    }
    make = helper.make_node
    nodes = [
        make("Transpose", ["images"], ["t"], perm=[0, 3, 1, 2]),
        make("Cast", ["t"], ["c"], to=TensorProto.FLOAT),
        make("Sub", ["c", "mean"], ["x"]),
        make("Conv", ["x", "w1", "b1"], ["y"], pads=[1, 1, 1, 1]),
        make("Relu", ["y"], ["r"]),
        make("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        make("Conv", ["p", "w2", "b2"], ["z"]),
        make("Add", ["z", "p"], ["a"]),
        make("Relu", ["a"], ["ra"]),
        make("ReduceMean", ["ra", "axes"], ["m"], keepdims=0),
        make("Gemm", ["m", "w3"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 9, 11, 3]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4]),
    ]
    tensors = [
        numpy_helper.from_array(value if name == "axes" else value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def answers(content: bytes, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits: np.ndarray[Any, Any] = session.run(None, {"images": images})[0]
    return logits


def test_the_graph_answers_as_before_within_its_levels() -> None:
    exact, rounded = small_graph(), quantised(small_graph(), [PIXELS])
    expected = answers(exact, PIXELS)
    assert 0 < np.abs(answers(rounded, PIXELS) - expected).max() < 0.05 * expected.std()
    assert quantised(small_graph(), [PIXELS[:1], PIXELS[1:4], PIXELS[4:]]) == rounded  # batches are no matter


def test_what_is_rounded_and_how() -> None:
    graph = onnx.load_from_string(quantised(small_graph(), [PIXELS])).graph
    rounded = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounded == ["x", "r", "p", "z", "ra", "m"]  # not between an operation and its ReLU, and not the logits
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert constants["p.scale"] == constants["r.scale"]
    assert constants["r.zero"] == 0
    assert constants["z.zero"] > 0
    for layer, axis, channels in (("y", 0, 8), ("z", 0, 8), ("logits", 1, 4)):
        levels, scale = constants[f"{layer}.weights.levels"], constants[f"{layer}.weights.scale"]
        others = tuple({*range(levels.ndim)} - {axis})
        assert levels.dtype == np.int8
        assert scale.shape == (channels,)
        # Two products of a pair of these and uint8 fit into 16 bits, which is where AVX2 adds them up.
        assert (np.abs(levels.astype(int)).max(others) == 63).all()
    assert constants["y.bias.levels"].dtype == np.int32
    assert not {"w1", "b1", "w2", "b2", "w3"} & constants.keys()


def test_a_channel_of_zeros_keeps_its_bias() -> None:
    model = onnx.load_from_string(small_graph())
    for tensor in model.graph.initializer:
        if tensor.name == "w2":  # as a residual block begins, whose last batch norm has a scale of 0
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((8, 8, 1, 1), np.float32), "w2"))
    exact = model.SerializeToString()
    expected = answers(exact, PIXELS)
    assert np.abs(answers(quantised(exact, [PIXELS]), PIXELS) - expected).max() < 0.05 * expected.std()


def test_a_model_that_gives_no_numbers_is_an_error() -> None:
    model = onnx.load_from_string(small_graph())
    for tensor in model.graph.initializer:
        if tensor.name == "b2":
            tensor.CopyFrom(numpy_helper.from_array(np.full(8, np.nan, np.float32), "b2"))
    with pytest.raises(CheckpointError, match="the model gives no numbers"):
        quantised(model.SerializeToString(), [PIXELS])


@pytest.fixture(scope="module")
def int8_file(digit_run: Path, digit_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("int8") / "model.onnx"
    export(digit_run, file, None, Console.silent(), ToInt8(digit_root, max_drop=5))
    return file


def test_the_file_says_what_it_came_to(digit_run: Path, int8_file: Path) -> None:
    session = onnxruntime.InferenceSession(int8_file)
    described = json.loads(session.get_modelmeta().custom_metadata_map["imagesprint"])
    said = described["int8"]
    assert described["precision"] == "int8"
    assert (said["num_images"], said["calibration_images"]) == (39, 161)
    evaluated = RunDirectory(digit_run).evaluations()[-1]
    for key in ("top1", "top5", "mean_class_accuracy"):
        assert said[f"fp32_{key}"] == getattr(evaluated, key)
    assert abs(said["top1"] - said["fp32_top1"]) <= 5


def test_it_is_opened_as_any_other_and_from_the_run_by_its_own_data(
    digit_run: Path, digit_export: Exported, int8_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "graph", lambda _: digit_export.file.read_bytes())  # it was exported once already
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = load_model(digit_run)(torch.from_numpy(images)).numpy()
    of_file = open_model(int8_file, "onnx", "auto", Console.silent(), int8=True)
    of_run = open_model(digit_run, "onnx", "auto", Console.silent(), int8=True)
    for model in (of_file, of_run):
        assert (model.name, model.precision, model.classes) == ("resnet20", "int8", ("one", "two", "zero"))
        assert np.abs(model.infer(images) - expected).max() < 0.2 * expected.std()
    assert np.array_equal(of_file.infer(images), of_run.infer(images))
    with pytest.raises(UsageError, match="PyTorch does not run a model in int8"):
        open_model(digit_run, "torch", "cpu", Console.silent(), int8=True)
    moved = shutil.copytree(digit_run, tmp_path / "moved")
    rows = (moved / "commands.jsonl").read_text()
    (moved / "commands.jsonl").write_text(rows.replace("/root", "/elsewhere"))
    with pytest.raises(UsageError, match=f"the data that {moved} was trained on is not there: ") as caught:
        open_model(moved, "onnx", "cpu", Console.silent(), int8=True)
    assert "--int8 --data ROOT" in caught.value.hint
    (moved / "commands.jsonl").unlink()
    with pytest.raises(UsageError, match=f"{moved} does not say which data"):
        open_model(moved, "onnx", "cpu", Console.silent(), int8=True)


def test_too_great_a_drop_writes_nothing(
    digit_run: Path,
    digit_root: Path,
    digit_export: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(int8, "graph", lambda _: digit_export.file.read_bytes())
    monkeypatch.setattr(quantising, "_WEIGHT_LEVELS", 1)  # as good as no weights
    file = tmp_path / "model.onnx"
    file.write_text("what was there")
    words = ["export", str(digit_run), str(file), "--int8", "--data", str(digit_root), "--max-drop", "3"]
    assert main(words) == CheckError.exit_code
    said = capsys.readouterr().err
    assert f"error: {file} was not written: in int8 top-1 is " in said
    assert "more than --max-drop 3\nhint: raise --max-drop" in said
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there"]


def test_wrong_usage(
    digit_run: Path, digit_root: Path, photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str, *words: object) -> tuple[int, str]:
        code = main(["export", str(digit_run), str(tmp_path / name), *map(str, words)])
        return code, capsys.readouterr().err

    together = "--int8, --data and --max-drop belong together"
    for words in (["--int8"], ["--data", digit_root], ["--max-drop", 1]):
        code, text = said("model.onnx", *words)
        assert code == 2
        assert together in text
    assert "'x' is not a number from 0 to 100" in said("model.onnx", "--int8", "--max-drop", "x")[1]
    assert said("model.pt2", "--int8", "--data", digit_root)[1].startswith("error: --int8 writes ONNX, not torch\n")
    assert said("model.onnx", "--int8", "--data", photo_root)[0] == 1  # other classes
    assert list(tmp_path.iterdir()) == []


def test_sums_of_sizes_are_no_activations() -> None:
    model = onnx.load_from_string(small_graph())
    model.graph.node.extend(
        [helper.make_node("Shape", ["images"], ["sizes"]), helper.make_node("Add", ["sizes", "sizes"], ["twice"])]
    )
    sizes = [helper.make_tensor_value_info(name, TensorProto.INT64, [4]) for name in ("sizes", "twice")]
    model.graph.value_info.extend(sizes)
    graph = onnx.load_from_string(quantised(model.SerializeToString(), [PIXELS])).graph
    rounded = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounded == ["x", "r", "p", "z", "ra", "m"]
