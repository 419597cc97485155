import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.runs.run_lock import run_lock

HOLDER = """
import sys, time
from pathlib import Path
from imagesprint.runs.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_of_the_first_until_that_dies(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, run], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"in use by process {holder.pid} on {os.uname().nodename}"), run_lock(run):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run_lock(run):
        assert (run / ".lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), run_lock(tmp_path / "file" / "run"):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = f"^cannot lock {tmp_path}/.lock: Function not implemented$"
    with pytest.raises(UsageError, match=said) as raised, run_lock(tmp_path):
        pass
    assert "choose a place on another disk" in raised.value.hint
