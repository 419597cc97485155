"""`benchmarks/slurm.py`: a real SLURM strikes a training at its time limit; queued again it ends with the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_server import is_slurm_there

BENCHMARK = Path(__file__).parents[1] / "benchmarks/slurm.py"


@pytest.mark.remote
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not is_slurm_there(), reason="needs slurmctld and slurmd (Debian's slurm-wlm), and root")
def test_a_job_at_its_time_limit_is_queued_again_and_ends_with_the_same_bits() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert 0 < found["stopped_at"] < found["steps"]
