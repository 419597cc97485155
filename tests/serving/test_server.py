"""Servers from their beginning to their end: ports, signals under load, newer checkpoints. Real processes."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from imagesprint.console import Console
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.inference.opening import open_model
from imagesprint.serving.service import check_watched, tried
from tiny_server import CLASSES, Server, ServerProcess, Started, ask, make_image, wait_for, write_checkpoint

Serve = Callable[..., ServerProcess]


def test_a_port_that_is_taken_or_a_wrong_host_is_wrong_usage(imagesprint: Callable[..., Any], served_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = imagesprint("serve", served_run, "--port", port)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: cannot listen at port {port} of 127.0.0.1: Address already in use\nhint: ")
    done = imagesprint("serve", served_run, "--host", "no.such.host.invalid", "--port", 0)
    assert done.code == 2
    assert done.stderr.startswith("error: cannot listen at port 0 of no.such.host.invalid: ")
    done = imagesprint("serve", served_run, "--port", 65536)
    assert (done.code, done.stderr.splitlines()[0]) == (2, "error: argument --port: '65536' is no port: 0 to 65535")


def test_a_model_that_cannot_be_opened_ends_the_server(imagesprint: Callable[..., Any], tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "run")
    file.write_bytes(file.read_bytes()[:-1000])
    done = imagesprint("serve", tmp_path / "run", "--port", 0, "--quiet", "--runtime", "torch")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {file}")
    assert "Traceback" not in done.stderr
    done = imagesprint("serve", file, "--port", 0, "--watch")
    assert (done.code, done.stderr.splitlines()[0].partition(" is one file")[0]) == (
        2,
        f"error: --watch is about the checkpoints of a run, and {file}",
    )


def test_while_the_model_loads_the_server_is_there_and_not_ready(start_server: Callable[..., Started]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:  # it never gives the model
        command = start_server(f"http://127.0.0.1:{store.getsockname()[1]}/model.pt")
        url = wait_for(lambda: command.stderr.read_text().endswith("\n") and command.stderr.read_text()).split()[2]
        host, _, port = url.removeprefix("http://").rpartition(":")
        server = Server(host, int(port))
        assert server.ask("/health").json["status"] == "loading"
        assert server.ask("/v2/health/live").json == {"live": True}
        for path, body in (
            *((path, None) for path in ("/ready", "/model", "/ping", "/v2/health/ready", "/v2/models/any/ready")),
            *((path, make_image()) for path in ("/predict", "/invocations", "/v2/models/any/infer")),
        ):
            answer = server.ask(path, body)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json["error"].endswith("/model.pt is being loaded")
        assert command.end().code == 0


def test_sigterm_under_load_loses_no_request(serve: Serve, served_run: Path) -> None:
    server = serve(served_run)
    said = {"url", "model", "num_classes", "step", "image_size", "runtime", "precision"}
    assert json.loads(server.command.stdout.read_text()).keys() == said
    lost, answered, ended = [], [0] * 16, threading.Event()

    def client(number: int) -> None:
        connection, image = server.connect(), make_image(number)
        while not ended.is_set():
            try:
                answer = ask(connection, "/predict?top=1", image)
            except ConnectionRefusedError:
                return  # which says that nothing was taken
            except OSError as error:
                lost.append(repr(error))
                return
            if answer.status != 200:
                lost.append(str(answer.status))
            answered[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(answered))]
    for thread in threads:
        thread.start()
    assert wait_for(lambda: min(answered) > 3)
    done = server.command.end()
    ended.set()
    for thread in threads:
        thread.join(60)
    assert (done.code, lost) == (0, [])
    assert "Traceback" not in done.stderr


def test_a_newer_checkpoint_takes_over_and_no_request_is_lost(serve: Serve, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_checkpoint(run, step=1)
    server = serve(run, "--watch")
    image, seen, failed, ended = make_image(), set(), [], threading.Event()

    def client() -> None:
        connection = server.connect()
        while not ended.is_set():
            answer = ask(connection, "/predict", image)
            if answer.status == 200:
                seen.add(round(answer.json["top"][0]["probability"], 4))
            else:
                failed.append(answer.content)

    thread = threading.Thread(target=client)
    thread.start()

    def step() -> int:
        found: int = server.ask("/health").json["step"]
        return found

    write_checkpoint(run, step=2)
    assert wait_for(lambda: step() == 2)
    broken, other = run / "checkpoints" / "step-0000003.pt", run / "checkpoints" / "step-0000004.pt"

    def said(text: str) -> bool:
        return text in server.command.stderr.read_text()

    for file in (broken, other):
        if file == broken:
            file.write_bytes(b"no checkpoint")
        else:
            write_checkpoint(run, step=4, classes=CLASSES[:2])
        assert wait_for(partial(said, f"warning: {file} is not served: "))
        assert step() == 2
    write_checkpoint(run, step=5)
    assert wait_for(lambda: step() == 5)
    time.sleep(0.1)
    write_checkpoint(run, step=5, gain=5.0)  # as where batch norm's statistics are measured anew at the end
    assert wait_for(lambda: len(seen) == 4)
    ended.set()
    thread.join(60)
    done = server.command.end(signal.SIGINT)  # as Ctrl-C has it
    assert (done.code, failed) == (0, [])
    assert len(seen) == 4  # those of steps 1, 2 and 5, which was written twice
    assert done.stderr.count("warning: ") == 2
    assert "it has other classes, or another image size or shape" in done.stderr


def test_a_model_that_gives_no_numbers_is_not_served(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", gain=1e21)
    with pytest.raises(CheckpointError, match="gives no numbers for a sample image"):
        tried(open_model(tmp_path / "run", "torch", "cpu", Console.silent()))


def test_watching_needs_a_run(served_run: Path, tmp_path: Path) -> None:
    check_watched(served_run)
    for place in (next(served_run.rglob("*.pt")), tmp_path / "model.onnx", tmp_path):
        with pytest.raises(UsageError):
            check_watched(place)


def test_what_large_bodies_took_goes_back(serve: Serve, served_run: Path) -> None:
    server = serve(served_run)
    process = psutil.Process(server.command.pid)
    assert server.ask("/predict", make_image()).status == 200
    before = process.memory_info().rss
    for _ in range(3):
        assert server.ask("/predict", bytes(31 << 20)).status == 415
    assert wait_for(lambda: process.memory_info().rss < before + (10 << 20))
    assert server.command.end().code == 0
