"""`benchmarks/sagemaker_drivers.py`: AWS's own container drivers start a training on two hosts, here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks/sagemaker_drivers.py"


@pytest.mark.remote
@pytest.mark.timeout(1500)
def test_jobs_started_by_the_contract_and_by_awss_drivers() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = json.loads(done.stdout)["broken"]
    assert broken == {name: [] for name in ("contract", "script", "torchrun", "interrupted", "failing")}
