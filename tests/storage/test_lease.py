"""Leases in a real store: taken once, kept by the living, taken over from the dead."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from imagesprint.console import Console
from imagesprint.errors import HeldError, LostLeaseError
from imagesprint.storage import lease as leases
from imagesprint.storage.lease import Holder, lease, take_lease
from imagesprint.storage.store import Store, open_store
from s3_server import S3

KEY = "run/.lease"
QUIET = Console(quiet=True)
ELSEWHERE = replace(Holder.own(), host="node7", machine="of another start")


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store, with times that a test can wait for."""
    for name, seconds in (("RENEWED_EVERY", 0.3), ("STALE_AFTER", 2.0), ("_LOOK", 0.2)):
        monkeypatch.setattr(leases, name, seconds)
    return open_store(s3.url)


class _Listening(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def line(self, text: str = "") -> None:
        self.lines.append(text)


WRONG = json.dumps({"holder": {**asdict(ELSEWHERE), "since": "yesterday"}}).encode()


def write(store: Store, holder: Holder, number: int = 1, renewals: int = 0) -> None:
    """Write a lease as another process would."""
    content = {"holder": asdict(holder), "id": "another", "renewals": renewals}
    store.write(f"{KEY}/{number:08d}", json.dumps(content).encode())


def work(held: leases.Lease) -> None:
    """Do as a holder does, for three seconds."""
    for _ in range(30):
        held.check()
        time.sleep(0.1)


def left(store: Store) -> list[str]:
    return [stored.key for stored in store.list(KEY)]


def test_second_is_refused_and_told_of_the_first(store: Store) -> None:
    with lease(store, KEY, QUIET) as held:
        time.sleep(0.7)  # two renewals
        held.check()
        with pytest.raises(HeldError, match=rf"at work at {store.url}: process \d+ on .*, since 20") as raised:
            take_lease(store, KEY, QUIET)
        assert "or stop it" in raised.value.hint
    assert left(store) == []
    take_lease(store, KEY, QUIET).release()


def test_one_of_many_gets_it(store: Store) -> None:
    def take(_: int) -> leases.Lease | None:
        try:
            return take_lease(store, KEY, QUIET)
        except HeldError:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = [held for held in pool.map(take, range(8)) if held is not None]
    assert len(taken) == 1
    taken[0].release()


def test_patient_waits_for_the_end(store: Store) -> None:
    console = _Listening()
    with ThreadPoolExecutor(1) as pool:
        with lease(store, KEY, QUIET):
            waiting = pool.submit(take_lease, store, KEY, console, patient=True)
            time.sleep(1)
            assert not waiting.done()
        waiting.result(timeout=10).release()
    assert len(console.lines) == 1
    assert console.lines[0].startswith("waiting for process ")


def test_killed_process_of_this_machine_holds_nothing(store: Store) -> None:
    program = (
        "import sys, time; from imagesprint.console import Console; from imagesprint.storage.lease import take_lease; "
        "from imagesprint.storage.store import open_store; from imagesprint.storage.url import Url; "
        f"take_lease(open_store(Url(sys.argv[1])), {KEY!r}, Console()); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(store.url)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(HeldError, match=f"process {process.pid} on"):
        take_lease(store, KEY, QUIET)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
    begun = time.monotonic()
    with lease(store, KEY, QUIET):
        assert left(store) == ["00000002"]
    assert time.monotonic() - begun < 2.5
    process.communicate()


def test_silent_one_of_another_machine_is_waited_for_and_taken_over(store: Store) -> None:
    write(store, ELSEWHERE)
    console = _Listening()
    begun = time.monotonic()
    with lease(store, KEY, console):
        assert 0.5 < time.monotonic() - begun < 10  # the store's clock counts whole seconds
    assert len(console.lines) == 1
    assert console.lines[0].startswith("waiting for process ")
    assert "on node7" in console.lines[0]
    assert console.lines[0].endswith("s at most")


def test_stale_one_is_taken_over_at_once(store: Store) -> None:
    write(store, ELSEWHERE)
    time.sleep(2.6)
    console = _Listening()
    take_lease(store, KEY, console).release()
    assert console.lines == []


@pytest.fixture
def living(store: Store) -> Iterator[None]:
    """Another machine's lease, renewed."""
    ended = threading.Event()

    def renew() -> None:
        renewals = 0
        while not ended.wait(0.3):
            renewals += 1
            write(store, ELSEWHERE, renewals=renewals)

    write(store, ELSEWHERE)
    thread = threading.Thread(target=renew)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.usefixtures("living")
def test_living_one_of_another_machine_is_not_taken_over(store: Store) -> None:
    with pytest.raises(HeldError, match="on node7"):
        take_lease(store, KEY, QUIET)


def test_holder_notices_that_it_was_taken_over_and_leaves_the_other_alone(store: Store) -> None:
    with lease(store, KEY, QUIET) as held:
        write(store, ELSEWHERE, number=2)
        with pytest.raises(LostLeaseError, match=r"was taken over by process .* on node7"):
            work(held)
    assert "00000002" in left(store)


def test_lease_that_was_removed_by_hand_comes_back(store: Store) -> None:
    with lease(store, KEY, QUIET) as held:
        store.delete(f"{KEY}/00000001")
        time.sleep(1)
        held.check()
        assert left(store) == ["00000001"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"holder": {}}', b'{"holder": 3}', WRONG])
def test_content_that_nobody_wrote_is_of_somebody_unknown(content: bytes) -> None:
    standing = leases.Standing(1, content, 0.0)
    assert (standing.is_gone, standing.owner) == (False, "")
    assert "a host that it does not name" in str(standing.holder)
