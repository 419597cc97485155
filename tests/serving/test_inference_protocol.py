"""The Open Inference Protocol over HTTP, spoken as tritonclient does, to a server in a process of its own."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from imagesprint.console import Console
from imagesprint.inference.opening import OpenModel, open_model
from imagesprint.inference.prediction import ImageReader
from tiny_server import CLASSES, Answer, Server, make_image, wait_for, write_checkpoint

INFER = "/v2/models/resnet20/infer"
LENGTH = "Inference-Header-Content-Length"
IMAGES = [make_image(seed) for seed in range(3)]
OUTPUTS = ("logits", "probabilities")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint, until the last test."""
    run = tmp_path_factory.mktemp("watched") / "run"
    write_checkpoint(run)
    return run


@pytest.fixture(scope="module")
def server(serve_here: Callable[..., AbstractContextManager[Server]], run: Path) -> Iterator[Server]:
    with serve_here(run, watch=True) as running:
        yield running


@pytest.fixture(scope="module")
def model(run: Path) -> OpenModel:
    return opened(run, 2)


def opened(run: Path, step: int) -> OpenModel:
    return open_model(run / "checkpoints" / f"step-{step:07d}.pt", "torch", "cpu", Console.silent())


def binary(name: str, shape: list[int], data: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers as tritonclient sends them: one input whose data follow the JSON."""
    datatype = {"images": "UINT8", "encoded": "BYTES"}[name]
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    said = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}} | more).encode()
    return said + data, {LENGTH: str(len(said)), "Content-Type": "application/octet-stream"}


def files(*images: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    """The image files as the input `encoded`."""
    return binary("encoded", [len(images)], b"".join(struct.pack("<I", len(one)) + one for one in images), **more)


def tensors(answer: Answer) -> list[NDArray[np.float32]]:
    """The outputs of an answer, in binary or in JSON, once it is checked to be as asked."""
    assert answer.status == 200, answer.content
    length = answer.headers[LENGTH]
    assert answer.headers["Content-Type"] == f"application/{'json' if length is None else 'octet-stream'}"
    said = json.loads(answer.content[: None if length is None else int(length)])
    behind, found = answer.content[len(answer.content) if length is None else int(length) :], []
    assert said["model_name"] == "resnet20"
    for name, output in zip(OUTPUTS, said["outputs"], strict=True):
        assert (output["name"], output["datatype"]) == (name, "FP32")
        size = output.get("parameters", {}).get("binary_data_size", 0)
        values = np.frombuffer(behind[:size], "<f4") if size else np.array(output["data"], np.float32)
        found.append(values.reshape(output["shape"]))
        behind = behind[size:]
    assert not behind
    return found


def check(answer: Answer, logits: NDArray[np.float32]) -> None:
    """An answer has these logits, and the probabilities that follow from them."""
    found, probabilities = tensors(answer)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5)  # in batches, whose sums are rounded otherwise
    np.testing.assert_array_equal(probabilities, torch.from_numpy(found.copy()).softmax(1).numpy())


def logits_of(model: OpenModel, images: list[bytes]) -> NDArray[np.float32]:
    with ImageReader(model.image_size, model.resize) as reader:
        pixels, failures = reader.decode(images)
    assert not failures
    return model.infer(pixels)


def test_image_files_are_answered_as_predict_does(server: Server, model: OpenModel) -> None:
    logits = logits_of(model, IMAGES)
    check(server.ask(INFER, *files(*IMAGES)), logits)
    check(server.ask("/v2/models/resnet20/versions/2/infer", *files(*IMAGES)), logits)
    data = [base64.b64encode(image).decode() for image in IMAGES]
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [3], "data": data}
    check(server.ask(INFER, json.dumps({"inputs": [tensor]}).encode()), logits)


def test_pixels_are_answered(server: Server, model: OpenModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    logits = model.infer(pixels)
    check(server.ask(INFER, *binary("images", [2, 32, 32, 3], pixels.tobytes())), logits)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": pixels.tolist()}
    check(server.ask(INFER, json.dumps({"inputs": [tensor]}).encode()), logits)


def test_classes_are_named_on_demand(server: Server, model: OpenModel) -> None:
    asked = [{"name": "probabilities", "parameters": {"classification": 2, "binary_data": False}}]
    answer = server.ask(INFER, *files(IMAGES[0], id="7", outputs=asked))
    assert (answer.json["id"], answer.json["model_version"]) == ("7", "2")
    (output,) = answer.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "BYTES", [1, 2])
    (probabilities,) = torch.from_numpy(logits_of(model, IMAGES[:1])).softmax(1).tolist()
    best = sorted(range(3), key=lambda label: -probabilities[label])[:2]
    for text, label in zip(output["data"], best, strict=True):
        value, *rest = text.split(":")
        assert rest == [str(label), CLASSES[label]]
        assert float(value) == pytest.approx(probabilities[label], abs=2e-6)


def test_the_server_and_the_model_describe_themselves(server: Server) -> None:
    said = server.ask("/v2").json
    assert (said["name"], said["extensions"]) == ("imagesprint", ["binary_tensor_data", "classification"])
    assert server.ask("/v2/health/live").json == {"live": True}
    assert server.ask("/v2/health/ready").json == {"ready": True}
    for of in ("/v2/models/resnet20", "/v2/models/resnet20/versions/2"):
        assert server.ask(f"{of}/ready").json == {"name": "resnet20", "ready": True}
        assert server.ask(of).json == {
            "name": "resnet20",
            "versions": ["2"],
            "platform": "imagesprint_torch",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
            "alternative_inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in OUTPUTS],
        }


@pytest.mark.parametrize(
    ("path", "request_of", "status", "error"),
    [
        ("/v2/models/resnet50/infer", lambda: files(IMAGES[0]), 404, "there is no model 'resnet50': it is resnet20"),
        ("/v2/models/resnet20/versions/1/infer", lambda: files(IMAGES[0]), 404, "has no version '1': it is 2"),
        ("/v2/models/resnet50", None, 404, "there is no model 'resnet50'"),
        ("/v2/models/resnet50/ready", None, 404, "there is no model 'resnet50'"),
        ("/v2/models/resnet20/config", None, 404, "Not Found"),
        (INFER, None, 405, "Method Not Allowed"),
        (INFER, lambda: (b"", {}), 400, "the request is no JSON"),
        (INFER, lambda: (files(IMAGES[0])[0], {}), 400, "the request is no JSON"),
        (INFER, lambda: binary("images", [1, 8, 8, 3], bytes(192)), 400, "[1, 8, 8, 3]; it should be [-1, 32, 32, 3]"),
        (INFER, lambda: (b"\x1f\x8b", {"Content-Encoding": "gzip"}), 415, "compressed with 'gzip'; send it as it is"),
        (INFER, lambda: files(b"no image"), 415, "no image: it begins with b'no image' (element 0 of encoded)"),
        (INFER, lambda: files(IMAGES[0], IMAGES[1][:-50]), 422, "(element 1 of encoded)"),
        (INFER, lambda: files(*IMAGES[:1] * 65), 413, "a request of 65 images"),
        (INFER, lambda: binary("images", [65, 32, 32, 3], bytes(65 * 3072)), 413, "a request of 65 images"),
    ],
)
def test_what_is_wrong_is_refused(
    server: Server, path: str, request_of: Callable[[], tuple[bytes, dict[str, str]]] | None, status: int, error: str
) -> None:
    answer = server.ask(path, *(request_of() if request_of else ()))
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert error in answer.json["error"]


def test_an_answer_names_the_version_that_gave_it(server: Server, run: Path) -> None:
    write_checkpoint(run, 3)
    logits = {str(step): logits_of(opened(run, step), IMAGES[:1]) for step in (2, 3)}
    asked = files(IMAGES[0], outputs=[{"name": "logits"}], parameters={})

    def version() -> str:
        said = server.ask(INFER, *asked).json
        if "model_version" not in said:  # one took over from the other just then
            return ""
        np.testing.assert_allclose([said["outputs"][0]["data"]], logits[said["model_version"]], rtol=0, atol=1e-5)
        return str(said["model_version"])

    assert wait_for(lambda: version() == "3")
    assert server.ask("/v2/models/resnet20").json["versions"] == ["3"]
    assert server.ask("/v2/models/resnet20/versions/3/infer", *asked).status == 200
    assert "has no version '2': it is 3" in server.ask("/v2/models/resnet20/versions/2/infer", *asked).json["error"]
