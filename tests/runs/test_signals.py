import os
import signal
import subprocess
import sys

import pytest

from imagesprint.runs.environment import LAUNCHER_VARIABLE, StopSignals, exit_code

PROGRAM = """
import os, signal, sys, time
from imagesprint.runs.environment import StopSignals
with StopSignals() as signals:
    for pause, name in {sent!r}:
        time.sleep(pause)
        os.kill(os.getpid(), getattr(signal, name))
    print(signals.number, flush=True)
"""


def run(sent: list[tuple[float, str]], *before: str, **environment: str) -> tuple[int, str]:
    """Send signals, each after a pause; the exit code and the number that was noted."""
    done = subprocess.run(
        [*before, sys.executable, "-c", PROGRAM.format(sent=sent)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
def test_the_first_is_noted_and_a_later_one_ends_the_process(name: str, code: int) -> None:
    assert exit_code(signal.Signals[name]) == code
    assert run([(0, name)]) == (0, str(int(signal.Signals[name])))
    assert run([(0, name), (1.1, name)]) == (code, "")


def test_the_same_request_twice_is_one() -> None:
    assert run([(0, "SIGTERM"), (0, "SIGTERM")]) == (0, str(int(signal.SIGTERM)))
    twice = [(0.0, "SIGTERM"), (1.1, "SIGTERM")]
    assert run(twice, **{LAUNCHER_VARIABLE: "1"}) == (0, str(int(signal.SIGTERM)))


def test_a_terminal_that_closes_is_noted_and_nobody_s_second_word() -> None:
    assert exit_code(signal.SIGHUP) == 143
    assert run([(0, "SIGHUP"), (1.1, "SIGHUP")]) == (0, str(int(signal.SIGHUP)))
    assert run([(0, "SIGINT"), (1.1, "SIGHUP")]) == (0, str(int(signal.SIGINT)))
    assert run([(0, "SIGHUP"), (1.1, "SIGTERM")]) == (0, str(int(signal.SIGTERM)))
    assert run([(0, "SIGHUP"), (0, "SIGTERM"), (1.1, "SIGINT")]) == (130, "")


def test_under_nohup_a_terminal_may_close() -> None:
    assert run([(0, "SIGHUP"), (0.1, "SIGHUP")], "nohup") == (0, "0")


def test_the_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signal.getsignal(signal.SIGTERM) != before
        assert signals.number == 0
    assert signal.getsignal(signal.SIGTERM) == before
