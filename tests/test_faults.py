"""A slice of `benchmarks/faults.py`: calls to the file system that fail."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "benchmarks/faults.py"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_each_failed_call_is_named_and_the_same_command_comes_to_the_same() -> None:
    words = ["--commands", "prepare,train", "--sample", "10,1", "--seed", "2", "--json"]
    done = subprocess.run(
        [sys.executable, str(FAULTS), *words], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [len(found[name]) for name in ("prepare", "train")] == [10, 1]
    assert {one["verdict"] for one in found["prepare"]} == {"said", "went on"}
