import os
import signal
import subprocess
import sys

import pytest

from imagesprint.runs.environment import LAUNCHER_VARIABLE
from imagesprint.runs.signals import StopSignals, exit_code

PROGRAM = """
import os, signal, sys, time
from imagesprint.runs.signals import StopSignals
with StopSignals() as signals:
    for pause in {pauses!r}:
        time.sleep(pause)
        os.kill(os.getpid(), signal.{name})
    print(signals.number, flush=True)
"""


def run(pauses: list[float], name: str = "SIGTERM", **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(pauses=pauses, name=name)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
def test_the_first_is_noted_and_a_later_one_ends_the_process(name: str, code: int) -> None:
    assert exit_code(signal.Signals[name]) == code
    assert run([0], name) == (0, str(int(signal.Signals[name])))
    assert run([0, 1.1], name) == (code, "")


def test_the_same_request_twice_is_one() -> None:
    assert run([0, 0]) == (0, str(int(signal.SIGTERM)))
    assert run([0, 1.1], **{LAUNCHER_VARIABLE: "1"}) == (0, str(int(signal.SIGTERM)))


def test_the_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signal.getsignal(signal.SIGTERM) != before
        assert signals.number == 0
    assert signal.getsignal(signal.SIGTERM) == before
