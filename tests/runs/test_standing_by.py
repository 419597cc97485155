"""Ranks that are too many, as real processes."""

import os
import socket
import subprocess
import sys

ONE = """
import os, sys
from imagesprint.errors import ImagesprintError, RunError, StoppedError
from imagesprint.runs.ranks import open_ranks
outcomes = [None, StoppedError("stopped"), RunError("failed")]
for port, outcome in zip(sys.argv[1:], outcomes):
    os.environ["MASTER_PORT"] = port
    try:
        with open_ranks("cpu", 60, lambda started: started - 1) as ranks:
            if ranks.stands_by:
                ranks.stand_by()
            else:
                print(ranks.rank, ranks.world_size, ranks.standing_by, ranks.total(1), flush=True)
                if outcome:
                    raise outcome
        print("well", flush=True)
    except ImagesprintError as error:
        print(type(error).__name__, error.exit_code, flush=True)
"""

LOST = """
import os, sys, time
from imagesprint.errors import LostRankError
from imagesprint.runs import meeting, ranks
meeting._SILENCE_SECONDS = 0.5
os.environ["MASTER_PORT"] = sys.argv[1]
with ranks.open_ranks("cpu", 60, lambda started: 1) as here:
    if not here.stands_by:
        time.sleep(100)  # it is killed
    print("stands by", flush=True)
    try:
        here.stand_by()
    except LostRankError as error:
        print(error.what, flush=True)
"""


def start(code: str, count: int, ports: int) -> "list[subprocess.Popen[str]]":
    """Start `count` ranks of an elastic launch that run `code` with free ports as arguments."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(ports)]
    words = [sys.executable, "-c", code, *(str(server.getsockname()[1]) for server in with_ports)]
    for server in with_ports:
        server.close()
    own = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "False", "WORLD_SIZE": str(count)}
    common = os.environ | own | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environments = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [
        subprocess.Popen(words, env=each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in environments
    ]


def test_one_too_many_waits_and_ends_as_the_others_do() -> None:
    ranks = start(ONE, 3, 3)
    said = [rank.communicate(timeout=100)[0].splitlines() for rank in ranks]
    ends = ["well", "StoppedError 143", "RunError 1"]
    for number in range(2):
        assert said[number] == [line for end in ends for line in (f"{number} 2 1 2", end)]
    assert said[2] == ends


def test_one_that_stands_by_ends_when_the_others_are_gone() -> None:
    ranks = start(LOST, 2, 1)
    assert ranks[1].stdout is not None
    assert ranks[1].stdout.readline() == "stands by\n"
    ranks[0].kill()
    said, errors = ranks[1].communicate(timeout=100)
    assert said == "rank 1 stood by and lost contact with rank 0\n", errors
    ranks[0].communicate(timeout=10)
