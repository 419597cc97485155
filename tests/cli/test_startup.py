"""`imagesprint --help` answers at once."""

import os
import resource
import subprocess
import sys

import pytest

PROBE = """
import resource, sys
from imagesprint.cli.main import main
code = main({argv!r})
slow = [name for name in ("torch", "numpy", "matplotlib", "PIL", "sklearn") if name in sys.modules]
print(slow, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("argv", [["--help"], ["recipes", "--help"], ["recipes", "show", "small"], ["nonsense"]])
def test_nothing_heavy_is_imported(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE.format(argv=argv)], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.returncode == (2 if argv == ["nonsense"] else 0)


def test_help_takes_less_than_three_tenths_of_a_second_of_cpu() -> None:
    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    command = [sys.executable, "-m", "imagesprint", "--help"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # compiled once, as in daily use
    taken = []
    for _ in range(3):
        before = seconds()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        taken.append(seconds() - before)
        assert done.returncode == 0
        assert "imagesprint VERB" in done.stdout
    assert min(taken) < 0.3
