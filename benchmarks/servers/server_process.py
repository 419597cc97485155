"""A server of tests and benchmarks: a process on ports of 127.0.0.1 that ends with the last process that uses it."""

import fcntl
import os
import pickle
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

# Those who use a server hold a shared lock, which the system releases however they end. The shell starts the server,
# says its process id, and kills it once it gets the lock for itself; or ends with the server, if that ends before.
_KEEPER = """users=$1; shift
"$@" </dev/null >&2 & server=$!
flock -x "$users" kill -9 $server >/dev/null & watcher=$!
echo $server; exec >&-
wait $server; kill $watcher 2>/dev/null"""
_PORTS = range(20000, 32000)  # below those that Linux gives to outgoing connections


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 at which nothing listens."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


class Server(ABC):
    """A program that serves. It is started at once, and again by `start` after `kill`, at the same ports.

    Pickled, it can be used by another process, too.
    """

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        """`words` start it; `server.log` in `folder` gets what it prints."""
        self._words = words
        self._folder = folder
        self._extra = environment or {}
        self._use()
        self.start()

    @property
    def log(self) -> Path:
        return self._folder / "server.log"

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves."""

    def _use(self) -> None:
        self._users: TextIO = (self._folder / "users").open("a")
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_users"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._use()

    def start(self, seconds: float = 60.0) -> None:
        """Start it, and wait until it is ready. Raises RuntimeError where it is not within `seconds`."""
        with self.log.open("ab") as log:
            keeper = subprocess.Popen(
                ["sh", "-c", _KEEPER, "sh", str(self._folder / "users"), *self._words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | self._extra,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        assert keeper.stdout is not None
        self.pid = int(keeper.stdout.read())
        end = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > end or not self.is_alive():
                self.kill()
                raise RuntimeError(f"{self._words[0]} did not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def is_alive(self) -> bool:
        """Whether it runs, ready or not."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def pause(self) -> None:
        """Have it hang: it accepts connections and answers none."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it, with SIGKILL; its data stay."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.is_alive():
            time.sleep(0.01)

    def release(self) -> None:
        """Use it no more: it ends once nobody does."""
        self._users.close()


class ListeningServer(Server):
    """A server that is ready once its `port` answers."""

    def __init__(self, words: list[str], folder: Path, port: int, environment: dict[str, str] | None = None) -> None:
        self.port = port
        super().__init__(words, folder, environment)

    def is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True


class Shareable(Protocol):
    """What `shared` needs of a server: that it can be pickled, and"""

    def is_alive(self) -> bool: ...
    def release(self) -> None: ...


SomeServer = TypeVar("SomeServer", bound=Shareable)


def shared(folder: Path, make: Callable[[Path], SomeServer]) -> SomeServer:
    """Return the server of `folder`, which `make(folder)` starts where none of the processes that ask has done so."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "server.pickle"
    with (folder / "mutex").open("a") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        if state.exists():
            server: SomeServer = pickle.loads(state.read_bytes())
            if server.is_alive():
                return server
            server.release()
        server = make(folder)
        state.write_bytes(pickle.dumps(server))
        return server
