import socket

import pytest

from imagesprint.measuring.doctor.check import FAILURE, OK, WARNING, Check
from imagesprint.measuring.doctor.rank_environment import rank_checks

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"),
    *(
        "SLURM_STEP_NUM_TASKS",
        "OMPI_COMM_WORLD_SIZE",
        "SM_HOSTS",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_USE_AGENT_STORE",
    ),
    *("IMAGESPRINT_LAUNCHER", "IMAGESPRINT_STORE"),
)


def look(monkeypatch: pytest.MonkeyPatch, **environment: object) -> dict[str, Check]:
    """The checks by name, in an environment that has these variables alone."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return {check.name: check for check in rank_checks(4)}


@pytest.mark.parametrize(
    ("environment", "detail"),
    [
        ({"RANK": 5, "WORLD_SIZE": 4, "LOCAL_RANK": 1}, "RANK is 5 and WORLD_SIZE 4"),
        ({"RANK": 0}, "RANK is set but WORLD_SIZE is not"),
        ({"WORLD_SIZE": 4}, "WORLD_SIZE is 4 but RANK is not set"),
        ({"RANK": 1, "WORLD_SIZE": 4}, "RANK is set but LOCAL_RANK is not"),
        ({"RANK": "one", "WORLD_SIZE": 4, "LOCAL_RANK": 1}, "the environment variable RANK is 'one', not a number"),
        (
            {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 2},
            "LOCAL_RANK is 2 and LOCAL_WORLD_SIZE 2",
        ),
    ],
)
def test_a_wrong_environment(environment: dict[str, object], detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, **environment)["ranks"]
    assert (found.status, found.detail) == (FAILURE, detail)
    assert "unset" in found.hint or "torchrun" in found.hint


def test_which_rule_won(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch)["ranks"].detail == "a single process, as RANK is not set"
    two = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    assert look(monkeypatch, **two)["ranks"].detail == (
        "rank 1 of 2, number 1 of 2 on this machine: RANK and WORLD_SIZE, by whoever set them"
    )
    assert look(monkeypatch, **two, TORCHELASTIC_RUN_ID="x")["ranks"].detail.endswith("by torchrun")
    ours = look(monkeypatch, **two, IMAGESPRINT_LAUNCHER="7", IMAGESPRINT_STORE="/tmp/store")
    assert ours["ranks"].detail.endswith(": --processes")
    assert ours["ports"].status == OK


@pytest.mark.parametrize(
    ("environment", "detail"),
    [
        ({"SLURM_PROCID": 3, "SLURM_STEP_NUM_TASKS": 8}, "SLURM's SLURM_PROCID=3 of 8 is not read"),
        ({"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 2}, "Open MPI's OMPI_COMM_WORLD_RANK=0 of 2"),
        ({"SM_CURRENT_HOST": "algo-1", "SM_HOSTS": '["algo-1", "algo-2"]'}, "SageMaker's SM_CURRENT_HOST=algo-1 of 2"),
    ],
)
def test_tasks_of_other_launchers_are_no_ranks(
    environment: dict[str, object], detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = look(monkeypatch, **environment)["ranks"]
    assert found.status == WARNING
    assert detail in found.detail
    assert "torchrun" in found.hint
    alone = {name: '["algo-1"]' if name == "SM_HOSTS" else 1 for name in environment}
    assert look(monkeypatch, **alone)["ranks"].status == OK


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "IMAGESPRINT_STORE": "/tmp/store"}
    assert look(monkeypatch, **two, OMP_NUM_THREADS=2)["threads"].status == OK
    assert look(monkeypatch, **two, OMP_NUM_THREADS=1)["threads"].status == WARNING


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [{"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"} for rank in (0, 1)]
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        taken = look(monkeypatch, **ranks[0], MASTER_PORT=port)["ports"]
        assert (taken.status, taken.hint) == (FAILURE, "choose another MASTER_PORT on all ranks")
        assert look(monkeypatch, **ranks[1], MASTER_PORT=port)["ports"].detail == f"127.0.0.1:{port} answers"
        agent = look(monkeypatch, **ranks[0], MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="True")
        assert agent["ports"].status == OK
    assert look(monkeypatch, **ranks[0], MASTER_PORT=port)["ports"].status == OK
    nobody = look(monkeypatch, **ranks[1], MASTER_PORT=port)["ports"]
    assert (nobody.status, "start rank 0" in nobody.hint) == (WARNING, True)
    for wrong in ("", "port", "70000"):
        assert look(monkeypatch, **ranks[1], MASTER_PORT=wrong)["ports"].status == FAILURE
    del ranks[1]["MASTER_ADDR"]
    assert "MASTER_ADDR is ''" in look(monkeypatch, **ranks[1], MASTER_PORT=port)["ports"].detail


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, RANK=1, WORLD_SIZE=2, LOCAL_RANK=1, MASTER_ADDR="no.such.invalid", MASTER_PORT=29500)
    assert found["ports"].status == FAILURE
    assert "MASTER_ADDR" in found["ports"].hint
