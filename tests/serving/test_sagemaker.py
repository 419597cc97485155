"""SageMaker's contract: which model a container serves, its port, `/ping` and `/invocations`."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.serving.sagemaker import find_container
from tiny_server import Server, ServerProcess, make_image, write_checkpoint

IMAGE = make_image()
CUT = IMAGE[:-50]
FORM = (
    b'--limit\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + IMAGE + b"\r\n--limit--\r\n"
)


@pytest.fixture(scope="module")
def server(serve: Callable[..., ServerProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is told nothing of its model, as in a container."""
    base = tmp_path_factory.mktemp("ml")
    write_checkpoint(base / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGEMAKER_BASE_DIR", str(base))
        running = serve()
    yield running
    assert running.command.end().code == 0


def test_a_ping_gets_200_and_an_empty_body(server: Server) -> None:
    answer = server.ask("/ping")
    assert (answer.status, answer.content) == (200, b"")


def instances(*images: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}).encode()


def test_an_invocation_is_answered_as_predict_does(server: Server) -> None:
    prediction = server.ask("/predict", IMAGE).json
    assert len(prediction["top"]) == 3
    ignored = {"X-Amzn-SageMaker-Custom-Attributes": "trace=7", "X-Amzn-SageMaker-Inference-Id": "8"}
    for kind in ("image/jpeg", "application/x-image", "application/octet-stream", ""):
        headers = {"Content-Type": kind} if kind else {}
        for accept in ("application/json", "*/*", "text/html;q=0.5, application/*"):
            answer = server.ask("/invocations", IMAGE, {**headers, **ignored, "Accept": accept})
            assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
            assert answer.json == prediction
    answer = server.ask("/invocations", FORM, {"Content-Type": "multipart/form-data; boundary=limit"})
    assert answer.json == [prediction | {"image": "a.jpg"}]


def test_an_invocation_in_json_is_answered_with_predictions(server: Server) -> None:
    prediction = server.ask("/predict", IMAGE).json
    answer = server.ask("/invocations", instances(IMAGE, CUT), {"Content-Type": "application/json; charset=utf-8"})
    whole, cut = answer.json["predictions"]
    assert whole == prediction
    assert (cut["image"], cut["error"].partition(":")[0]) == (None, "damaged")


@pytest.mark.parametrize(
    ("body", "headers", "status", "error"),
    [
        (b"no image", {"Content-Type": "image/jpeg"}, 415, "no image"),
        (CUT, {"Content-Type": "image/jpeg"}, 422, "damaged"),
        (IMAGE, {"Content-Type": "text/csv"}, 415, "a body of 'text/csv' is no image"),
        (IMAGE, {"Accept": "text/csv"}, 406, "answers are application/json, and not 'text/csv'"),
        (b"{", {"Content-Type": "application/json"}, 400, "the request is no JSON"),
        (b"[]", {"Content-Type": "application/json"}, 400, "not an object"),
        (b"{}", {"Content-Type": "application/json"}, 400, "the request has no instances"),
        (b'{"instances": []}', {"Content-Type": "application/json"}, 400, "the request has no instances"),
        (b'{"instances": ["YQ=="]}', {"Content-Type": "application/json"}, 400, "not all strings of base64"),
        (b'{"instances": [{"b64": "%"}]}', {"Content-Type": "application/json"}, 400, "not all strings of base64"),
        (instances(CUT, CUT), {"Content-Type": "application/json"}, 422, "damaged"),
    ],
)
def test_what_is_wrong_is_refused(
    server: Server, body: bytes, headers: dict[str, str], status: int, error: str
) -> None:
    answer = server.ask("/invocations", body, headers)
    assert answer.status == status
    assert error in answer.json["error"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /opt/ml/model, empty."""
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("SAGEMAKER_BIND_TO_PORT", raising=False)
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("name", [".", "run"])
def test_the_one_run_in_the_folder_is_served(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(folder / name)
    (folder / "code").mkdir()
    (folder / "result.json").touch()
    (folder / "._model.onnx").touch()  # of macOS's tar
    assert find_container() == (folder / name, "0.0.0.0", 8080)
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "9000")
    assert find_container() == (folder / name, "0.0.0.0", 9000)


@pytest.mark.parametrize("name", ["model.onnx", "step-0000002.pt"])
def test_the_one_file_in_the_folder_is_served(folder: Path, name: str) -> None:
    (folder / name).touch()
    assert find_container()[0] == folder / name


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "", "9" * 5000])
def test_a_port_that_is_none_is_refused(folder: Path, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.onnx").touch()
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", port)
    with pytest.raises(UsageError, match="SAGEMAKER_BIND_TO_PORT is "):
        find_container()


def test_a_folder_with_no_model_or_several_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"model holds no run, checkpoint or exported \.onnx file"):
        find_container()
    write_checkpoint(folder)
    (folder / "model.onnx").touch()
    with pytest.raises(UsageError, match=rf"holds several models: {folder}, {folder / 'model.onnx'}"):
        find_container()


def test_without_the_folder_it_is_said_how_to_name_a_model(folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(UsageError, match=f"no MODEL is given, and there is no folder {folder}") as refused:
        find_container()
    assert refused.value.hint.startswith("`imagesprint serve RUN`; without MODEL it serves what SageMaker unpacks")


@pytest.mark.remote
def test_a_container_keeps_the_contract_from_its_start_to_its_end(served_run: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "serve_sagemaker.py"
    done = subprocess.run([sys.executable, str(script), str(served_run)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "none lost" in done.stdout
