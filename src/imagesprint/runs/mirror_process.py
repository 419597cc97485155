"""The process beside rank 0 that holds a run's lease and keeps its URL as its folder on this machine is.

    python -m imagesprint.runs.mirror_process URL FOLDER pull|go-on

It is one of its own, begun by exec, so that nothing of it can stop a step: it shares no lock of Python's with training
(some calls of OpenDAL hold that while they wait), no memory, and no fork of what a client of a store does not survive.
Rank 0 gives it commands on standard input and hears from it on standard output, one JSON object a line (`mirror.py`).
It ends with rank 0, however that ends.

What is to be sent it sees by the folder itself: nothing is queued, nothing is lost with this process, and what a store
that does not answer has missed is sent when it does.
"""

import ctypes
import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.errors import FileError, ImagesprintError, LostLeaseError, RunError, StorageError
from imagesprint.runs.environment import PR_SET_PDEATHSIG, STOPPING
from imagesprint.runs.sending import KEPT_FILE, LEASE, Sender, pull, step_of
from imagesprint.storage.lease import Lease, lease
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url, parse_place

LOOK_SECONDS: Final = 0.25  # between two looks at the folder for a new checkpoint
LEAST_PAUSE: Final = 2.0  # seconds between two times that rows and logs are sent, whole each time;
SHARE: Final = 20  # and at least so many times as long as that took, which leaves the store and the network alone
MOST_PAUSE: Final = 60.0
RETRIES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # seconds until the next try, as long as the store fails
RELEASE_SECONDS: Final = 3.0  # to let go of a run that rank 0 has left; else its lease becomes stale by itself
LISTED: Final = 5  # files named of those that are missing


class _Told(io.StringIO):
    """What a Console writes to: each line is told to rank 0."""

    def __init__(self, link: "Link") -> None:
        super().__init__()
        self._link = link

    def write(self, text: str) -> int:
        if text.strip():
            self._link.say("line", text=text.strip())
        return len(text)


class Link:
    """The pipes to and from rank 0."""

    def __init__(self) -> None:
        self.commands: queue.Queue[dict[str, Any]] = queue.Queue()
        self.held: Lease | None = None
        self.on_finish: Callable[[], None] = _nothing
        self._lock = threading.Lock()

    def say(self, kind: str, **values: object) -> None:
        """Tell rank 0; ends this process where it is not there any more."""
        try:
            with self._lock:
                sys.stdout.write(json.dumps({"kind": kind, **values}) + "\n")
                sys.stdout.flush()
        except (OSError, ValueError):
            os._exit(1)

    def fail(self, error: ImagesprintError) -> None:
        """Tell rank 0 of an error."""
        self.say("error", type=type(error).__name__, what=error.what, hint=error.hint)

    def listen(self) -> None:
        """Hear rank 0 until it is gone, or waits no longer; then let go of the run and end."""
        for line in sys.stdin:
            command = json.loads(line)
            if command["kind"] == "finish":  # told at once: a store may keep the other thread waiting
                self.on_finish()
            self.commands.put(command)
        threading.Timer(RELEASE_SECONDS, os._exit, [1]).start()
        if self.held is not None:
            self.held.release()
        os._exit(1)


def _nothing() -> None:
    pass


class Mirror:
    """Keeps the URL as the folder is."""

    def __init__(self, url: Url, folder: Path, link: Link) -> None:
        self._url, self._folder, self._link = url, folder, link
        self._store = open_store(url)
        self._sender = Sender(self._store, folder)
        self._begun = False  # until then nothing is sent: the command may be refused
        self._settling = self._finishing = self._verified = False
        self._failures = 0
        self._next_try = self._next_rows = 0.0

    def serve(self, first: bool) -> None:
        """Hold the lease, bring what is at the URL if this is the `first` process of the command, and then send."""
        with lease(self._store, LEASE, Console(_Told(self._link))) as held:
            self._link.held, self._link.on_finish = held, self.tell_left
            if first:
                pull(self._store, self._folder)
            self._begun = not first
            self._sender.look()
            self._link.say("ready", checkpoints=sorted(self._sender.checkpoints))
            while not self._is_done():
                self._heed(LOOK_SECONDS)
                if self._begun and time.monotonic() >= self._next_try:
                    self._work(held)
        self._link.say("done")

    @property
    def _is_urgent(self) -> bool:
        return self._finishing or self._settling

    def _is_done(self) -> bool:
        return self._verified and not self._sender.pending()

    def _work(self, held: Lease) -> None:
        try:
            held.check()
            self._send()
            if self._finishing and not self._sender.pending():
                self._sender.verify()
                self._verified = True
            if self._settling and not self._sender.pending():
                self._settling = False
                self._link.say("settled")
        except LostLeaseError:
            raise
        except (StorageError, FileError) as error:
            self._failed(error)

    def _failed(self, error: ImagesprintError) -> None:
        """Tell of the first failure in a row; the next try comes later and later."""
        if not self._failures:
            self._link.say("warning", what=error.what, hint=error.hint)
        self._next_try = time.monotonic() + RETRIES[min(self._failures, len(RETRIES) - 1)]
        self._failures += 1

    def _send(self) -> None:
        """Send what is due, file by file, with an ear for rank 0 between two."""
        began, is_due = time.monotonic(), self._is_urgent or time.monotonic() >= self._next_rows
        large = 0.0
        keys = self._sender.pending()
        checkpoints = [key for key in keys if step_of(key) is not None]
        while keys and (is_due or checkpoints):
            key = keys[0]
            start = time.monotonic()
            self._sender.send(key)
            large += time.monotonic() - start if step_of(key) is not None else 0.0
            self._sent(key)
            self._heed(0)
            left = self._sender.pending()  # a newer checkpoint may have come
            newer = [one for one in left if step_of(one) is not None and one not in checkpoints]
            checkpoints += newer
            keys = newer + [one for one in keys[1:] if one in left]
        if is_due or checkpoints:
            self._sender.delete_surplus()
            seconds = time.monotonic() - began - large
            self._next_rows = time.monotonic() + min(MOST_PAUSE, max(LEAST_PAUSE, SHARE * seconds))

    def _sent(self, key: str) -> None:
        (self._folder / KEPT_FILE).touch()
        if self._failures:
            self._failures = 0
            self._link.say("line", text=f"{self._url} can be written again: what is missing there is being sent")
        if self._finishing:
            self.tell_left()
        self._link.say("sent", key=key)

    def tell_left(self) -> None:
        """Tell rank 0 what is still to be sent; any thread may."""
        left = self._sender.pending()
        self._link.say("left", count=len(left), bytes=self._sender.size(left), names=left[:LISTED])

    def _heed(self, seconds: float) -> None:
        """Carry out the commands of rank 0; wait so long for one."""
        with suppress(queue.Empty):
            while True:
                command = self._link.commands.get(timeout=seconds) if seconds else self._link.commands.get_nowait()
                self._obey(command)
                seconds = 0

    def _obey(self, command: dict[str, Any]) -> None:
        kind = command["kind"]
        if kind == "fetch":
            self._fetch(command["key"])
        elif kind == "forget":
            self._sender.forget(command["keys"])
        else:
            self._begun = True
        if kind == "begin":
            self._sender.begin(command["step"])
        elif kind == "settle":
            self._settling, self._next_try = True, 0.0
        elif kind == "finish":
            self._finishing, self._next_try = True, 0.0

    def _fetch(self, key: str) -> None:
        try:
            self._sender.fetch(key)
        except ImagesprintError as error:
            self._link.fail(error)
            return
        self._link.say("fetched")


def main() -> None:
    """Serve rank 0 until it says that it has finished; an error of ours is told to it."""
    for number in STOPPING:  # rank 0 decides when this ends
        signal.signal(number, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    link = Link()
    threading.Thread(target=link.listen, daemon=True).start()
    url, folder = parse_place(sys.argv[1]), Path(sys.argv[2])
    assert isinstance(url, Url)
    try:
        Mirror(url, folder, link).serve(first=sys.argv[3] == "pull")
    except ImagesprintError as error:
        link.fail(error)
    except Exception as error:  # a bug of ours: rank 0 says so, in its own way
        link.fail(RunError(f"sending to {url} failed: {type(error).__name__}: {error}", "please report it"))


if __name__ == "__main__":
    main()
