"""The script for sbatch: what it asks for, and what it does when a stand-in takes srun's place."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.launching.job import Job, unknown
from imagesprint.launching.slurm import Slurm

MakeJob = Callable[..., Job]
StandIn = Callable[..., Path]
CallsOf = Callable[[Path], list[dict[str, Any]]]


def options(text: str) -> dict[str, str]:
    """Return what the script asks sbatch for."""
    return {name: value for name, _, value in re.findall(r"^#SBATCH --([a-z-]+)(=(.*))?$", text, re.MULTILINE)}


def run_script(text: str, tmp_path: Path, **environment: str) -> int:
    """Run it as a node would, and return its exit code."""
    script = tmp_path / "job.sh"
    script.write_text(text)
    return subprocess.run(["bash", script], env={**os.environ, **environment}, check=False, timeout=60).returncode


def test_what_the_script_asks_for(make_job: MakeJob) -> None:
    text = Slurm().write(make_job(sets=("seed=3",)))
    asked = options(text)
    assert asked["nodes"] == "2"
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] == "4"
    assert asked["time"] == "45"
    assert asked["signal"] == "USR1@120"  # without B: it goes to the tasks, not to the script
    assert {"requeue", "job-name", "output", "cpus-per-task"} <= asked.keys()
    assert not {"array", "exclusive", "account", "partition"} & asked.keys()
    assert "# time: 9 min\n# cost: 5.09\n" in text
    assert "{{" not in text


def test_of_what_is_not_known_nothing_stands_there(make_job: MakeJob) -> None:
    text = Slurm().write(make_job(on_gpus=False, forecast=unknown("as nobody asked")))
    assert "# time: not known, as nobody asked." in text
    assert "exclusive" in options(text)
    assert not {"time", "gpus-per-node", "cpus-per-task"} & options(text).keys()


def test_the_script_trains_and_queues_itself_again(
    make_job: MakeJob, stand_in: StandIn, calls_of: CallsOf, tmp_path: Path
) -> None:
    job = make_job(data=Path("/data/it's here"), output=tmp_path / "run", sets=("seed=3", "phases.*.lr=1,2"))
    text = Slurm().write(job)
    started, queued = stand_in("srun", train=(143, "")), stand_in("scontrol")
    assert run_script(text, tmp_path, SLURM_JOB_ID="7") == 143
    words = calls_of(started)[0]["words"]
    begin = words.index("imagesprint")
    assert words[begin + 1 : begin + 5] == ["train", "minutes104", "--data", "/data/it's here"]
    assert words[begin + 5 :] == [
        *("--output", str(tmp_path / "run")),
        *("--device", "cuda", "--set", "seed=3", "--set", "phases.*.lr=1,2"),
    ]
    assert [call["words"] for call in calls_of(queued)] == [["requeue", "7"]]
    for code in (0, 1):  # finished, or failed by itself
        stand_in("srun", train=(code, ""))
        assert run_script(text, tmp_path, SLURM_JOB_ID="8") == code
    assert len(calls_of(queued)) == 1


def test_seeds_are_the_indices_of_an_array(
    make_job: MakeJob, stand_in: StandIn, calls_of: CallsOf, tmp_path: Path
) -> None:
    job = make_job(data=Path("/data"), output=Path("/runs/a b"), seeds=(0, 7))
    text = Slurm().write(job)
    assert options(text)["array"] == "0,7"
    started, queued = stand_in("srun", train=(143, "")), stand_in("scontrol")
    array = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "7"}
    assert run_script(text, tmp_path, **array) == 143
    words = calls_of(started)[0]["words"]
    assert words[words.index("--output") + 1] == str(job.runs[1].output) == "/runs/a b-seed7"
    assert words[-2:] == ["--set", "seed=7"]
    assert calls_of(queued)[0]["words"] == ["requeue", "9_7"]  # 9 alone would be all of the array's


def test_submitted(make_job: MakeJob, stand_in: StandIn, calls_of: CallsOf) -> None:
    job = make_job(data=Path("/data"), output=Path("/runs/first"))
    target = Slurm()
    calls = stand_in("sbatch", parsable=(0, "4711;cluster"))
    submitted = target.submit(job, target.write(job))
    assert submitted.jobs == ["4711"]
    assert submitted.stop == ["scancel 4711"]
    assert submitted.follow[1] == "tail -F minutes104-first-4711.log"
    assert calls_of(calls)[0]["text"] == target.write(job)
    stand_in("sbatch", parsable=(1, "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job failed"))
    with pytest.raises(ImagesprintError, match=r"sbatch refuses the job: .*invalid partition specified: x") as caught:
        target.submit(job, "")
    assert "nothing was submitted" in caught.value.hint


def test_folders_of_one_machine(make_job: MakeJob) -> None:
    with pytest.raises(UsageError, match="--output /tmp/run: each of the 2 nodes has a /tmp of its own"):
        Slurm().check(make_job(data=Path("/data"), output=Path("/tmp/run")))
    assert Slurm().check(make_job(data=Path("/data"), output=Path("/runs/tmp"))) == []
    (warning,) = Slurm().check(make_job(data=Path("/dev/shm/data"), output=Path("/runs"), nodes=1))
    assert warning.startswith("--data /dev/shm/data: ")
