"""Ranks on Kubernetes: Kubeflow's trainer gives torchrun its flags as PET_… variables, and that starts the ranks."""

import os
import subprocess
import sys

import pytest

from server_process import free_ports

RANK = """
from imagesprint.runs.ranks import open_ranks
with open_ranks("cpu") as ranks:
    print(ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_world_size, ranks.total(1), flush=True)
"""


@pytest.mark.remote  # for the time that four processes need to import torch; torchrun itself is seen in test_elastic.py
def test_torchrun_under_kubeflows_variables_gives_the_ranks() -> None:
    common = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
    common |= {"PET_MASTER_PORT": str(free_ports(1)[0]), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", "--no-python", sys.executable, "-P", "-c", RANK]
    nodes = [
        subprocess.Popen(
            words, env=os.environ | common | {"PET_NODE_RANK": str(node)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for node in (0, 1)
    ]  # fmt: skip
    found = [node.communicate(timeout=200) for node in nodes]
    assert [out for out, _ in found] == ["0 2 0 1 2\n", "1 2 0 1 2\n"], found
