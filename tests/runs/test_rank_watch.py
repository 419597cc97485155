"""A rank that does not answer, as real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

RANK = """
import os, signal, sys, torch
from imagesprint.errors import HungRankError
from imagesprint.runs.ranks import open_ranks
with open_ranks("cpu", timeout=3) as ranks:
    ranks.barrier()
    if ranks.rank == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        ranks.barrier()
    except HungRankError as error:
        print(error.what, flush=True)
        os._exit(0)
"""


def test_a_stopped_rank_is_named_by_the_others(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)}
            | {"IMAGESPRINT_STORE": str(tmp_path / "store"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    for rank in ranks[:2]:
        assert rank.communicate(timeout=100)[0] == "no sign of life from rank 2 for 3 s\n"
    ranks[2].send_signal(signal.SIGKILL)
    ranks[2].communicate()
