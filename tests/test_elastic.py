"""A short form of `benchmarks/elastic.py`: a second torchrun agent joins a run and is killed."""

import json
import subprocess
import sys
from pathlib import Path

ELASTIC = Path(__file__).parents[1] / "benchmarks/elastic.py"


def test_a_run_goes_on_with_a_node_that_comes_and_without_it_when_it_is_killed() -> None:
    words = [sys.executable, str(ELASTIC), "--nodes", "1,2,1", "--steps", "60", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert [(stage["nodes"], stage["ranks"]) for stage in found["stages"]] == [(1, 1), (2, 2), (1, 1)]
    assert found["micro_batches"] == 4 * 60
