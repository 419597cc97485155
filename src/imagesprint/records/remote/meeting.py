"""Where the fetcher of a node and those who ask it meet, and how it is started: by the first who needs it.

They meet at a Unix socket in a folder that is this user's alone. Its name is a digest of all that makes another
fetcher: the cache, its limit, and the environment that stores take their credentials and settings from. The socket is
made by who starts the fetcher, and handed down to it: so there is nothing to wait for.
"""

import fcntl
import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from imagesprint.errors import FileError
from imagesprint.files import naming
from imagesprint.records.remote.wire import PROTOCOL
from imagesprint.storage.cache import LIMIT_VARIABLE, cache_folder

MODULE: Final = "imagesprint.records.remote.fetcher"
# What the stores' own conventions read. The values are hashed, never written.
_PREFIXES: Final = ("AWS_", "AZURE_", "CLOUDSDK_", "GCE_", "GOOGLE_", "HADOOP_", "KRB5", "SSL_CERT_", "STORAGE_")
_NAMES: Final = ("HOME", "USER", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", LIMIT_VARIABLE)
_LONGEST_NAME: Final = 100  # bytes of a socket's path: Linux has 107, others fewer (unix(7), sun_path)
_BACKLOG: Final = 128
_TMPDIR_HINT: Final = "name another folder by XDG_RUNTIME_DIR or TMPDIR"
_started: Final[list[subprocess.Popen[bytes]]] = []  # held, so that those which ended are waited for


def connect() -> socket.socket:
    """Return a connection to the fetcher, which is started where there is none. Raises FileError."""
    place = meeting_place()
    found = _connect(place)
    if found is None:
        with locked(place):
            found = _connect(place) or _start(place)
    return found


def meeting_place() -> Path:
    """Return the path of the socket of this environment's fetcher."""
    return _folder() / f"{_key()}.sock"


def last_words(place: Path) -> str:
    """Return the last line that the fetcher which met others at `place` printed: nothing, unless it failed."""
    with suppress(OSError):
        return (place.with_suffix(".log").read_text(errors="replace").strip().rpartition("\n")[2])[:300]
    return ""


def fetcher_pid(place: Path) -> int | None:
    """Return the process id of the fetcher that was started last for `place`, None where it is gone."""
    with suppress(OSError, ValueError):
        pid = int(place.with_suffix(".pid").read_text())
        if MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():  # not another that got its number
            return pid
    return None


def kill(place: Path) -> None:
    """Kill the fetcher at `place`, which hangs."""
    pid = fetcher_pid(place)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def locked(place: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock on who begins or ends the fetcher at `place`. Raises FileError, where it is not to `wait` also for
    a lock that another holds.
    """
    file = place.with_suffix(".lock")
    with naming("lock", file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield
        finally:
            os.close(descriptor)


def _key() -> str:
    """16 hex digits that are the same for those who may share a fetcher."""
    names = sorted(name for name in os.environ if name.startswith(_PREFIXES) or name.upper() in _NAMES)
    facts = [PROTOCOL, __file__, sys.executable, os.path.realpath(cache_folder())]
    settings = [(name, os.environ[name]) for name in names]
    return hashlib.sha256(json.dumps([facts, settings]).encode()).hexdigest()[:16]


def _folder() -> Path:
    """The folder of this user's sockets, made if it is not there. Raises FileError for one that others may write to."""
    bases = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    usable = [base for base in bases if base and os.access(base, os.W_OK)]
    for base in usable or bases[1:2]:
        folder = Path(base, f"imagesprint-{os.getuid()}")
        if len(os.fsencode(folder)) < _LONGEST_NAME - 25:  # a key and its suffix are 21
            break
    with naming("write", folder, _TMPDIR_HINT):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat(follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise FileError(f"{folder} is not this user's alone: others could answer in the fetcher's place", _TMPDIR_HINT)
    return folder


def _connect(place: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(place))
    except OSError:  # nobody is there, or it is about to end
        connection.close()
        return None
    return connection


def _start(place: Path) -> socket.socket:
    """Start a fetcher that listens at `place`, in a session of its own: what ends one who asks it leaves it alone."""
    _started[:] = [process for process in _started if process.poll() is None]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with naming("write", place, _TMPDIR_HINT), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        place.unlink(missing_ok=True)
        listener.bind(str(place))
        listener.listen(_BACKLOG)
        with place.with_suffix(".log").open("wb") as log:
            words = [sys.executable, "-P", "-m", MODULE, str(listener.fileno()), str(place)]
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                env=environment,
            )
        place.with_suffix(".pid").write_text(str(process.pid))
        _started.append(process)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(place))
    return connection
