"""The process beside rank 0: what it does when it is told, and when the store fails."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import FaultProxy, Faults
from imagesprint.files import append_row
from imagesprint.runs import mirror_process
from imagesprint.runs.mirror_process import Link, Mirror
from imagesprint.runs.sending import LEASE, checkpoint_keys
from imagesprint.storage import attempts
from imagesprint.storage.store import Store, open_store
from s3_server import S3


class Heard(Link):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()

    def say(self, kind: str, **values: object) -> None:
        self.said.put({"kind": kind, **values})

    def tell(self, kind: str, **values: object) -> None:
        self.commands.put({"kind": kind, **values})

    def until(self, kind: str) -> list[dict[str, Any]]:
        """All that is said up to a message of that kind."""
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["kind"] != kind:
            heard.append(self.said.get(timeout=20))
        return heard


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    return run


@pytest.fixture
def serve(s3: S3, run: Path) -> Iterator[Callable[[], Heard]]:
    threads = []

    def begin() -> Heard:
        link = Heard()
        mirror = Mirror(s3.url, run, link)
        threads.append(threading.Thread(target=lambda: mirror.serve(first=True)))
        threads[-1].start()
        return link

    yield begin
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def store(s3: S3) -> Store:
    return open_store(s3.url)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def begin_run(run: Path) -> None:
    (run / "recipe.toml").write_text("name = 'x'\n")
    append_row(run / "commands.jsonl", {"began": "now", "step": 0})


def test_nothing_is_sent_before_the_run_is_and_all_at_its_end(
    serve: Callable[[], Heard], store: Store, run: Path
) -> None:
    store.write("checkpoints/step-0000002.pt", b"x" * 9000)
    link = serve()
    assert link.until("ready")[-1]["checkpoints"] == ["checkpoints/step-0000002.pt"]
    begin_run(run)
    link.tell("fetch", key="checkpoints/step-0000002.pt")
    link.until("fetched")
    link.tell("fetch", key="checkpoints/step-0000099.pt")
    assert "there is no such file" in link.until("error")[-1]["what"]
    assert store.stat("recipe.toml") is None
    link.tell("begin", step=2)
    (run / "checkpoints" / "step-0000004.pt").write_bytes(b"y" * 9000)
    until(lambda: store.stat("checkpoints/step-0000004.pt"))
    link.tell("forget", keys=["checkpoints/step-0000002.pt"])
    (run / "checkpoints" / "step-0000002.pt").unlink()
    (run / "log.txt").write_text("the end")
    link.tell("settle")
    link.until("settled")
    link.tell("finish")
    link.until("done")
    assert checkpoint_keys(store) == ["checkpoints/step-0000004.pt"]
    assert store.read("log.txt") == b"the end"
    assert not list(store.list(LEASE))


def test_a_store_that_fails_is_told_of_once_and_asked_again(
    fault_proxy: FaultProxy, serve: Callable[[], Heard], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 0.5)
    monkeypatch.setattr(mirror_process, "RETRIES", (0.1,))
    link = serve()
    link.until("ready")
    begin_run(run)
    link.tell("begin", step=0)
    until(lambda: link.said.qsize() >= 2)
    fault_proxy.faults.error_share = 1.0
    (run / "checkpoints" / "step-0000004.pt").write_bytes(b"y" * 9000)
    link.until("warning")
    time.sleep(2.0)
    fault_proxy.faults = Faults()
    (run / "checkpoints" / "step-0000008.pt").write_bytes(b"z" * 9000)
    link.tell("finish")
    kinds = [message["kind"] for message in link.until("done")]
    assert "warning" not in kinds
    assert kinds.count("line") == 1
