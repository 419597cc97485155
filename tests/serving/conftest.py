"""Servers of a tiny model: processes of `imagesprint serve`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny_server import Server, Started, wait_for, write_checkpoint

Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint. It is not to be changed."""
    run = tmp_path_factory.mktemp("served") / "run"
    write_checkpoint(run)
    return run


@pytest.fixture(scope="session")
def start_server(warm_commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Started]:
    """Starts `imagesprint serve ARGUMENTS` in PyTorch, at a free port. It ends with the tests at the latest."""

    def start(*arguments: object) -> Started:
        words = ("serve", *arguments, "--port", "0", "--runtime", "torch")
        started: Started = warm_commands.start(tmp_path_factory.mktemp("server"), *words)
        return started

    return start


@pytest.fixture(scope="session")
def serve(start_server: Callable[..., Started]) -> Serve:
    """Starts a server as `start_server` does, and waits until it is ready."""

    def ready(*arguments: object) -> Server:
        command = start_server(*arguments, "--json")
        said = wait_for(lambda: command.stdout.read_text().endswith("\n") and command.stdout.read_text())
        assert said, command.stderr.read_text()
        host, _, port = json.loads(said)["url"].removeprefix("http://").rpartition(":")
        return Server(command, host, int(port))

    return ready


@pytest.fixture(scope="session")
def server(serve: Serve, served_run: Path) -> Iterator[Server]:
    """The server of `served_run` that tests share."""
    running = serve(served_run)
    yield running
    assert running.command.end().code == 0
