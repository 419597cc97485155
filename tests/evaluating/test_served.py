"""`evaluate --url`: each image through a running server comes to what `evaluate` makes of it."""

import json
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.checkpoints.weights import load_model
from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.errors import DataError, ServerError, UsageError
from imagesprint.evaluating import server as server_module
from imagesprint.evaluating.evaluation import blank_table, judge, read_table
from imagesprint.evaluating.served import encoded_image, evaluate_served, judge_served
from imagesprint.evaluating.server import Server
from imagesprint.inference.formats import describe
from imagesprint.inference.prediction import ImageReader
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.prepare.preparing import prepare
from imagesprint.records.dataset import open_dataset
from imagesprint.storage.url import Url

QUIET = Console.silent()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("served") / "run"
    write_checkpoint(folder, 16)
    return folder


@pytest.fixture(scope="module")
def url(run: Path, command: list[str]) -> Iterator[Url]:
    """A server in the runtime of `evaluate`."""
    words = [*command, "serve", str(run), "--port", "0", "--runtime", "torch", "--json", "--quiet"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Url(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()


def test_figures_are_those_of_evaluate(
    run: Path, url: Url, photo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(*words: object) -> str:
        assert main(["evaluate", *map(str, words), "--data", str(photo_root)]) == 0
        return capsys.readouterr().out

    found = json.loads(evaluated("--url", url, "--json", "--per-class"))
    assert not (run / "evaluations.jsonl").exists()  # its files are the server's business
    expected = json.loads(evaluated(run, "--json", "--per-class"))
    for one, other in zip(
        (*found["checkpoints"], found["best"]), (*expected["checkpoints"], expected["best"]), strict=True
    ):
        assert (one.pop("url"), one.pop("runtime")) == (str(url), f"torch {torch.__version__}")
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-6)
        for key in ("calibration", "calibration_error", "mistakes"):  # of probabilities: batches round them otherwise
            one.get("details", {}).pop(key, None)
            other.get("details", {}).pop(key, None)
        assert one == other
    text = evaluated("--url", url, "--variant", "full")
    assert f"served at {url} by torch {torch.__version__}: {run}/checkpoints/step-0000016.pt, top-1" in text


def test_each_answer_is_that_of_evaluate(run: Path, url: Url, photo_root: Path) -> None:
    dataset = open_dataset(photo_root, "32", "validation")
    table = blank_table(len(dataset), torch.device("cpu"))
    with EvaluationLoader(dataset, 24, 28, 8, 0, 1, 1) as loader:
        judge(load_model(run), loader, table)
    expected = read_table(table)
    with Server(url) as server:
        found = judge_served(server, server.model(), dataset, QUIET)
    assert expected is not None
    assert len(set(expected.probability)) == len(dataset)  # so that none can be taken for another's
    for key in ("predicted", "top1", "top5"):
        assert np.array_equal(getattr(found, key), getattr(expected, key)), key
    for key in ("probability", "loss"):
        np.testing.assert_allclose(getattr(found, key), getattr(expected, key), rtol=3e-6, err_msg=key)


def test_raw_pixels_are_sent_without_loss(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "root", variants=("32",), image_format="raw", shards=1, workers=1, console=QUIET)
    dataset = open_dataset(tmp_path / "root", "32", "validation")
    with EvaluationLoader(dataset, 24, 28, len(dataset), 0, 1, 1) as loader, ImageReader(24, 28, 1) as reader:
        pixels, failures = reader.decode([encoded_image(dataset, i) for i in range(len(dataset))])
        assert not failures
        expected = next(iter(loader)).images.numpy()
    assert np.abs(np.array(pixels, int) - expected).max() <= 1  # Pillow resizes PNGs, and the native decoder raw pixels


@dataclass
class StandIn:
    """A server that answers a path as `answers` says: a status, headers and a body, or None, which ends the connection.

    `ends`: every connection is ended after its answer, without a word.
    """

    answers: Callable[[str, bytes], tuple[int, dict[str, str], bytes] | None]
    ends: bool = False
    asked: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def serving(self) -> Iterator[Url]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stand_in.asked[self.path] += 1
                answer = stand_in.answers(self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
                self.close_connection = stand_in.ends or answer is None
                if answer is None:
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64  # its 5 are too few for us

            def handle_error(self, *_: object) -> None:
                """Of a client that has gone, which is meant."""

        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield Url(f"http://127.0.0.1:{server.server_port}")
            finally:
                server.shutdown()
                thread.join()


def test_what_finds_no_room_is_sent_again_and_answered_once(url: Url, photo_root: Path) -> None:
    answered = Counter[bytes]()
    tries = Counter[bytes]()

    def answers(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        tries[body] += 1
        if path.endswith("/infer") and tries[body] < 3:
            return (429, 503)[tries[body] - 1], {"Retry-After": "0"}, b"{}"
        connection = HTTPConnection(url.host)
        length = {} if not body else {"Inference-Header-Content-Length": str(body.index(b"}]}") + 3)}
        connection.request("POST" if body else "GET", path.removeprefix("/behind"), body or None, length)
        response = connection.getresponse()
        answered[body] += response.status == 200
        kept = {name: value for name, value in response.getheaders() if name.lower().startswith("inference")}
        return response.status, kept, response.read()

    stand_in = StandIn(answers, ends=True)
    with stand_in.serving() as there:
        found, _ = evaluate_served(there / "behind", photo_root, None, QUIET)
    direct, _ = evaluate_served(url, photo_root, None, QUIET)
    assert (found.top1, found.details["per_class"]) == (direct.top1, direct.details["per_class"])
    del answered[b""]
    assert set(answered.values()) == {1}
    assert len(answered) == found.num_images == 18


def model_answer(run: Path, **changes: object) -> tuple[int, dict[str, str], bytes]:
    said = {**describe(load_model(run)), "checkpoint": "c", "runtime": "r 1", "precision": "fp32", **changes}
    return 200, {}, json.dumps(said).encode()


LOGITS = json.dumps({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2]}]}).encode()
RIGHT = (200, {"Inference-Header-Content-Length": str(len(LOGITS))}, LOGITS + bytes(8))


def failing(run: Path, infer: tuple[int, dict[str, str], bytes] | None) -> StandIn:
    said = model_answer(run)
    return StandIn(lambda path, _: said if path == "/model" else infer)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((500, {}, b'{"error": "it broke"}'), ServerError, "answers 500, it broke"),
        (
            (422, {}, b'{"error": "damaged"}'),
            DataError,
            r"validation-.*record \d+, \d+.jpg: .* refuses it: 422, damaged",
        ),
        ((404, {}, b'{"error": "no version"}'), ServerError, "took another checkpoint than c while"),
        ((301, {"Location": "https://elsewhere"}, b""), ServerError, "answers 301"),
        ((429, {"Retry-After": "1"}, b'{"error": "full"}'), ServerError, "no room .* within 0 s: 429, full"),
        ((200, {}, b"{}"), ServerError, "no tensor of 2 logits"),
        ((200, RIGHT[1], LOGITS + bytes(4)), ServerError, "no tensor of 2 logits"),
        ((200, {"Inference-Header-Content-Length": "x"}, LOGITS + bytes(8)), ServerError, "no tensor of 2 logits"),
        (None, ServerError, "does not speak HTTP: RemoteDisconnected"),
    ],
)
def test_a_server_that_fails(
    answer: Any, kind: type[Exception], message: str, run: Path, photo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PATIENCE", 0.0)
    with failing(run, answer).serving() as there, pytest.raises(kind, match=message) as caught:
        evaluate_served(there, photo_root, None, QUIET)
    assert caught.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"classes": 7}, ServerError, "is no server of imagesprint: to GET /model it answers 200"),
        ({"recipe": {"shape": 1}}, ServerError, "of another version: .*'shape'"),
        ({"classes": [{"name": "china"}]}, DataError, "knows 1 classes, .* holds 2"),
        ({"classes": [{"name": "flower"}, {"name": "china"}]}, DataError, "or they have other names"),
    ],
)
def test_another_model(
    changes: dict[str, object], kind: type[Exception], message: str, run: Path, photo_root: Path
) -> None:
    said = model_answer(run, **changes)
    with StandIn(lambda *_: said).serving() as there, pytest.raises(kind, match=message):
        evaluate_served(there, photo_root, None, QUIET)


@pytest.mark.parametrize("change", ["step", "opened"])  # the latter where it is written anew under its name
def test_a_checkpoint_that_is_taken_over_meanwhile(run: Path, photo_root: Path, change: str) -> None:
    values = iter((16, 20))
    stand_in = StandIn(lambda path, _: model_answer(run, **{change: next(values)}) if path == "/model" else RIGHT)
    with stand_in.serving() as there, pytest.raises(ServerError, match="took another checkpoint"):
        evaluate_served(there, photo_root, None, QUIET)


def test_no_server_of_ours(photo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 0.3)
    with StandIn(lambda *_: (404, {}, b"<html>")).serving() as there, pytest.raises(ServerError, match="answers 404"):
        evaluate_served(there, photo_root, None, QUIET)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = Url(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServerError, match="does not answer within 0 s"):
            evaluate_served(silent_url, photo_root, None, QUIET)
    with pytest.raises(ServerError, match="is not there: Connection refused"):
        evaluate_served(silent_url, photo_root, None, QUIET)
    with pytest.raises(ServerError, match="is not there"):
        evaluate_served(Url(f"http://{'a' * 70}.invalid"), photo_root, None, QUIET)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ([], "nothing to judge is named", "a running server with --url"),
        (["RUN", "--variant", "full"], "--variant goes with --url alone", ""),
        (["RUN", "--url", "http://a"], "RUN and --url exclude each other", "two commands"),
        (["--url", "http://a", "--watch"], "--watch and --url exclude each other", "as it was started"),
        (["--url", "http://a", "--sizes", "20"], "--sizes and --url exclude each other", ""),
        (["--url", "http://a", "--processes", "2"], "--processes and --url exclude each other", ""),
        (["--url", "http://a", "--device", "cpu"], "--device and --url exclude each other", ""),
        (["--url", "localhost:8000"], "localhost:8000 is no URL of a server", "http:// or https://"),
        (["--url", "s3://a/b"], "s3://a/b is no URL of a server", "http:// or https://"),
        (["--url", "http://a:99999"], "there is no port 99999", "1 to 65535"),
        (["--url", "http://me:secret@a"], "would end up in logs", ""),
    ],
)
def test_wrong_usage(
    words: list[str], error: str, hint: str, photo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *words, "--data", str(photo_root)]) == UsageError.exit_code
    told = capsys.readouterr().err
    assert error in told
    assert hint in told
