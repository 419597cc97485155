"""Servers of a tiny model: processes of `imagesprint serve`, or threads, of which it is known what they run."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from imagesprint.console import Console
from imagesprint.serving.app import build_app
from imagesprint.serving.connections import Connection
from imagesprint.serving.service import Service, Wanted
from tiny_server import Server, ServerProcess, Started, wait_for, write_checkpoint

Serve = Callable[..., ServerProcess]


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

    def ready(*arguments: object) -> ServerProcess:
        command = start_server(*arguments, "--json")
        said = wait_for(lambda: command.stdout.read_text().endswith("\n") and command.stdout.read_text())
        assert said, command.stderr.read_text()
        host, _, port = json.loads(said)["url"].removeprefix("http://").rpartition(":")
        return ServerProcess(host, int(port), command)

    return ready


@contextmanager
def served_here(place: Path, watch: bool = False) -> Iterator[Server]:
    """A server in a thread of this process, for the time of the block."""
    service = Service(Wanted(place, "torch", "cpu", False), Console.silent())
    config = uvicorn.Config(build_app(service), http=Connection, ws="none", lifespan="off", log_config=None)
    running = uvicorn.Server(config)

    async def main() -> None:
        await service.open()
        watching = asyncio.create_task(service.watch() if watch else asyncio.sleep(0))
        await running.serve(sockets=[listener])
        watching.cancel()
        service.batcher.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        host, port = listener.getsockname()
        try:
            assert wait_for(lambda: running.started)
            yield Server(host, port)
        finally:
            running.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve_here() -> Callable[..., AbstractContextManager[Server]]:
    """`served_here`, for other modules."""
    return served_here


@pytest.fixture(scope="session")
def server(served_run: Path) -> Iterator[Server]:
    """The server of `served_run` that tests share."""
    with served_here(served_run) as running:
        yield running
