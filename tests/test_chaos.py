"""A short form of `benchmarks/chaos.py`: two strikes at a run of two processes."""

import json
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[1] / "benchmarks/chaos.py"


def test_a_run_that_is_struck_twice_comes_to_the_same_bits() -> None:
    kinds = "kill -9 of a rank,checkpoint damaged"
    words = ["--strikes", "2", "--processes", "2", "--kinds", kinds, "--images", "150", "--json"]
    done = subprocess.run(
        [sys.executable, str(CHAOS), *words], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert sorted(strike["kind"] for strike in found["strikes"]) == ["checkpoint damaged", "kill -9 of a rank"]
