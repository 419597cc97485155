"""A short form of `benchmarks/elastic.py`: two torchrun agents, of which one is killed and started again."""

import json
import subprocess
import sys
from pathlib import Path

ELASTIC = Path(__file__).parents[1] / "benchmarks/elastic.py"


def test_a_run_goes_on_without_a_lost_node_and_with_it_again() -> None:
    words = [sys.executable, str(ELASTIC), "--nodes", "2,1,2", "--steps", "120", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert [(stage["nodes"], stage["ranks"]) for stage in found["stages"]] == [(2, 2), (1, 1), (2, 2)]
    assert found["micro_batches"] == 4 * 120
