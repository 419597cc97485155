"""What SLURM's variables make of a process, and, marked `remote`, a real SLURM."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagesprint.errors import RankError
from imagesprint.runs.environment import Launch, RankEnvironment, find_launch, is_main_rank, rank_environment
from imagesprint.runs.processes import all_ranks
from imagesprint.runs.slurm import describe_job, expand_counts, expand_nodes, find_task, has_own_cores, port_of_step
from server_process import free_ports
from slurm_server import SlurmServer, is_slurm_there

# What SLURM 22.05 sets in the last of four tasks on two nodes.
LAST_OF_FOUR = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_CPUS_ON_NODE": "16",
    "SLURM_JOB_NODELIST": "node[1-2]",
}
ONE_NODE = LAST_OF_FOUR | {
    "SLURM_STEP_NODELIST": "node1",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "0",
}
GATHER = "from imagesprint.runs.ranks import open_ranks\nwith open_ranks('cpu') as r: print(r.gather(r.local_rank))"


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_")) or name == "RANK"]:
        monkeypatch.delenv(name)


def become(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **changes: str) -> None:
    for name, value in (environment | changes).items():
        monkeypatch.setenv(name, value)


def test_a_task_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_launch() is None
    become(monkeypatch, LAST_OF_FOUR)
    assert find_task() == Launch("SLURM", RankEnvironment(3, 4, 1, 2), "node1", port_of_step(), "")
    assert rank_environment() == (3, 4, 1, 2)
    assert not is_main_rank()
    become(monkeypatch, LAST_OF_FOUR, MASTER_ADDR="10.0.0.1", MASTER_PORT="77")
    assert find_launch() == Launch("SLURM", RankEnvironment(3, 4, 1, 2), "10.0.0.1", 77, "")
    monkeypatch.setenv("RANK", "0")  # torchrun's, in each task
    assert find_launch() is None


def test_tasks_of_one_node_meet_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, ONE_NODE)
    assert find_task() == Launch("SLURM", RankEnvironment(3, 4, 3, 4), "127.0.0.1", port_of_step(), "lo")
    with pytest.raises(RankError, match="--processes 2 in each of 4 tasks on one machine"):
        all_ranks(2)


def test_a_task_a_node_starts_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    each = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }
    become(monkeypatch, LAST_OF_FOUR, **each)
    assert all_ranks(8) == 16
    launch = find_launch()
    assert launch is not None
    variables = launch.variables(8, 3)
    assert {key: variables[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")} == {
        "RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node1",
    }  # fmt: skip


def test_neither_the_script_nor_a_single_task_is_one_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert find_task() is None
    become(monkeypatch, LAST_OF_FOUR, SLURM_STEP_NUM_TASKS="1", SLURM_PROCID="0")
    assert find_task() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"SLURM_STEP_TASKS_PER_NODE": "3,1"},
            r"not dealt evenly, node by node: \[3, 1\] of them on 2 nodes, and task 3",
        ),
        ({"SLURM_PROCID": "2"}, "task 2 is number 1 on node 1"),  # --distribution=cyclic
        ({"SLURM_PROCID": "three"}, "the environment variable SLURM_PROCID is 'three', not a number"),
        ({"SLURM_STEP_NODELIST": "node[1-2"}, r"'node\[1-2' is no list of SLURM's nodes"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x"}, r"'2\(x' is no list of SLURM's tasks"),
        ({"MASTER_PORT": "http"}, "the environment variable MASTER_PORT is 'http', not a number"),
    ],
)
def test_what_does_not_hold_together(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str) -> None:
    become(monkeypatch, LAST_OF_FOUR, **changes)
    with pytest.raises(RankError, match=message) as caught:
        find_launch()
    assert caught.value.hint


def test_a_variable_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, LAST_OF_FOUR)
    monkeypatch.delenv("SLURM_NODEID")
    with pytest.raises(RankError, match="SLURM_STEP_NUM_TASKS is set but SLURM_NODEID is not"):
        find_task()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login", ["login"]),
        ("node[01-03,7],login", ["node01", "node02", "node03", "node7", "login"]),
        ("gpu-a[8-10]-ib", ["gpu-a8-ib", "gpu-a9-ib", "gpu-a10-ib"]),
        ("r[0-1]n[1-2]", ["r0n1", "r0n2", "r1n1", "r1n2"]),
        ("a,b.c[098-101]", ["a", "b.c098", "b.c099", "b.c100", "b.c101"]),
    ],
)
def test_lists_of_nodes(text: str, names: list[str]) -> None:
    assert expand_nodes(text) == names


def test_counts_of_tasks() -> None:
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    assert expand_counts("16") == [16]


def test_no_two_steps_at_a_time_meet_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = set()
    for job in range(1000, 1010):
        for step in range(20):
            become(monkeypatch, {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
            ports.add(port_of_step())
    assert len(ports) == 200
    assert min(ports) >= 15000
    assert max(ports) < 29000


def test_the_job_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_job() == ""
    become(monkeypatch, LAST_OF_FOUR)
    assert describe_job() == "SLURM's job 7 step 0 on node[1-2]"
    become(monkeypatch, LAST_OF_FOUR, SLURM_RESTART_COUNT="2")
    assert describe_job() == "SLURM's job 7 step 0 on node[1-2], requeued 2 times"


def test_cores_that_slurm_has_dealt_are_not_divided_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_own_cores(8)
    become(monkeypatch, LAST_OF_FOUR)
    assert has_own_cores(8)
    assert not has_own_cores(16)  # --cpu-bind=none: those of both tasks


def test_tasks_meet_without_torchrun() -> None:
    port, common = str(free_ports(1)[0]), {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    tasks = [ONE_NODE | common | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n), "MASTER_PORT": port} for n in (0, 1)]
    words = [sys.executable, "-P", "-c", GATHER]
    processes = [
        subprocess.Popen(words, env=os.environ | task, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for task in tasks
    ]
    found = [process.communicate(timeout=120) for process in processes]
    assert [out for out, _ in found] == ["[0, 1]\n", "[0, 1]\n"], found


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[SlurmServer]:
    if not is_slurm_there():
        pytest.skip("needs slurmctld and slurmd (Debian's slurm-wlm), and root")
    server = SlurmServer(tmp_path, nodes=2, cpus=4)
    yield server
    server.kill()


@pytest.mark.remote
def test_two_steps_of_a_real_job_at_the_same_time(slurm: SlurmServer, tmp_path: Path) -> None:
    """Each task is a rank of its own step, on two nodes, with neither torchrun nor any variable of ours."""
    (tmp_path / "gather.py").write_text(GATHER)
    step = f"srun --overlap --ntasks=4 --ntasks-per-node=2 {sys.executable} -P {tmp_path / 'gather.py'}"
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\n{step} >{tmp_path}/a & a=$!\n{step} >{tmp_path}/b & b=$!\nwait $a && wait $b\n")
    job = slurm.await_end(slurm.submit("--nodes=2", "--ntasks-per-node=2", f"--output={tmp_path}/log", script), 200)
    assert job["ExitCode"] == "0:0", (tmp_path / "log").read_text()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "[0, 1, 0, 1]\n" * 4
