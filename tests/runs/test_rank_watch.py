"""A rank that does not answer, as real processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RANK = """
import os, signal, sys
from imagesprint.errors import HungRankError
from imagesprint.runs.ranks import open_ranks
with open_ranks("cpu", timeout=3) as ranks:
    ranks.barrier()
    if ranks.rank == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        ranks.barrier()
    except HungRankError as error:
        print(error.what, flush=True)
        os._exit(0)
"""

TOLD_TO_STOP = """
import os, signal, sys
from imagesprint.errors import HungRankError
from imagesprint.runs import meeting
from imagesprint.runs.environment import StopSignals
from imagesprint.runs.ranks import StopVote, open_ranks
meeting._AGREE_SECONDS = 1
with open_ranks("cpu", timeout=300) as ranks, StopSignals() as signals:
    vote = StopVote(ranks, signals)
    assert vote() == 0
    os.kill(os.getpid(), signal.SIGSTOP if ranks.rank == int(sys.argv[1]) else signal.SIGTERM)
    try:
        vote()
    except HungRankError as error:
        print(error.what, flush=True)
        os._exit(0)
"""


def file_store(folder: Path) -> dict[str, str]:
    """The environment of ranks that `--processes` starts."""
    return {"IMAGESPRINT_STORE": str(folder / "store")}


def tcp_store(_: Path) -> dict[str, str]:
    """The environment of ranks that torchrun starts, where rank 0 keeps their store."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}


def start(code: str, count: int, stopped: int, store: dict[str, str]) -> "list[subprocess.Popen[str]]":
    common = os.environ | store | {"WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, str(stopped)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


@pytest.mark.parametrize(
    ("store", "count", "stopped", "said"),
    [
        (file_store, 3, 2, "no sign of life from rank 2 for 3 s"),
        (tcp_store, 2, 1, "no sign of life from rank 1 for 3 s"),
        (
            tcp_store,
            2,
            0,
            "no answer from 127.0.0.1, where the ranks meet, for 3 s",
        ),  # a rank 0 that is stopped keeps it
    ],
)
def test_a_stopped_rank_is_named_by_the_others(tmp_path: Path, store: Any, count: int, stopped: int, said: str) -> None:
    ranks = start(RANK, count, stopped, store(tmp_path))
    for rank in (rank for number, rank in enumerate(ranks) if number != stopped):
        assert rank.communicate(timeout=100)[0] == said + "\n"
    ranks[stopped].send_signal(signal.SIGKILL)
    ranks[stopped].communicate()


def test_ranks_that_were_told_to_stop_do_not_wait_for_long(tmp_path: Path) -> None:
    ranks = start(TOLD_TO_STOP, 2, 1, file_store(tmp_path))
    said = ranks[0].communicate(timeout=100)[0]
    assert said == "told to stop, but no other rank agreed on a step within 1 s: nothing was saved\n"
    ranks[1].send_signal(signal.SIGKILL)
    ranks[1].communicate()
