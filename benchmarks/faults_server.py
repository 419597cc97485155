"""Carries out command lines for `faults.py`, each in a process of its own that is forked from this one.

Started with `faults.c` preloaded. This process has imported what the verbs do, torch above all, which takes seconds,
and so the ranks of `--processes` are forked from their launcher here, where they are started anew otherwise. It reads a
task a line, one JSON object, and answers each with its exit code, minus the signal that ended it, or "hangs".
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from typing import Any, ClassVar

LAUNCHER = -1  # the role of what starts ranks; a rank's is its number, that of any other command 0
SECONDS = 60.0  # after which a command counts as hanging
_RESTORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # a program that is started anew has none of our handlers

Task = dict[str, Any]


class ForkedRank:
    """Takes the place of subprocess.Popen in `runs.processes`."""

    task: ClassVar[Task] = {}

    def __init__(self, _: list[str], env: dict[str, str], stdin: int, stdout: Any, stderr: Any) -> None:  # noqa: ARG002
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            for number in _RESTORED:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            for number, file in ((1, stdout), (2, stderr)):
                if file is not None:
                    os.dup2(file.fileno(), number)
            os.environ.update(env)
            arm(self.task, int(env["RANK"]))
            _carry_out()

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def arm(task: Task, role: int) -> None:
    """Tell the preloaded library what is to fail in this process, which plays `role`."""
    fault = task["fault"] if task["fault"] and task["fault"]["role"] == role else None
    fault = fault or {"operation": "", "path": "", "nth": 0, "error": 0, "lasting": False}
    ctypes.CDLL(None).faults_arm(
        task["place"].encode(),
        task["log"],
        role,
        fault["operation"].encode(),
        fault["path"].encode(),
        ctypes.c_long(fault["nth"]),
        fault["error"],
        int(fault["lasting"]),
    )


def main() -> None:
    """Answer until nothing comes any more."""
    import tensorboard.summary  # noqa: F401 (all of these for what they import)
    import torch._dynamo  # noqa: F401 (an optimizer does, which takes most of a training this small)

    from imagesprint.diagnosis import planning  # noqa: F401
    from imagesprint.evaluating import checkpoints  # noqa: F401
    from imagesprint.prepare import preparing  # noqa: F401
    from imagesprint.runs import processes
    from imagesprint.training import training  # noqa: F401

    processes.subprocess.Popen = ForkedRank  # type: ignore[attr-defined, misc, assignment]
    processes.ECHO_SECONDS = 0.2  # most of the time of a command that fails; none but one rank does
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
            _carry_out()
        print(_wait(child), flush=True)


def _become(task: Task) -> None:
    os.setsid()
    os.environ.update(task["environment"])
    tempfile.tempdir = None
    os.chdir(task["place"])
    sys.argv = ["imagesprint", *task["words"]]
    for number, path in enumerate((os.devnull, task["stdout"], task["stderr"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    task["log"] = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    ForkedRank.task = task
    arm(task, LAUNCHER if "--processes" in task["words"] else 0)


def _carry_out() -> None:
    from imagesprint.cli.main import main as carry_out

    code = 70  # whatever escapes
    try:
        code = carry_out()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # what Python would print
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(child: int) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


if __name__ == "__main__":
    main()
