"""Which rank this process would be, by which rule, and whether the ranks could meet."""

import json
import os
import socket
from typing import Final

from imagesprint.errors import RankError
from imagesprint.measuring.doctor.check import Check, failure, ok, warning
from imagesprint.measuring.doctor.hardware import threads
from imagesprint.runs.environment import STORE_VARIABLE, Place, is_launched, keeps_store, place

_DEFAULT_PORT: Final = 29500  # torchrun's --master-port
_CONNECT_SECONDS: Final = 2.0
# How other launchers say which task this is, and of how many; a task of theirs is no rank of ours.
_OTHERS: Final = {
    "SLURM": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "SageMaker": ("SM_CURRENT_HOST", "SM_HOSTS"),
}


def rank_checks(cores: int) -> list[Check]:
    """Ranks, threads of each where this process may use `cores`, and ports."""
    try:
        found = place()
    except RankError as error:
        return [failure("ranks", error.what, error.hint), threads(cores, 1)]
    return [_ranks(found), threads(cores, found.local_world_size), _port(found)]


def _ranks(found: Place) -> Check:
    if "RANK" in os.environ:
        start = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "whoever set them"
        rule = "--processes" if is_launched() else f"RANK and WORLD_SIZE, by {start}"
        where = f"number {found.local_rank} of {found.local_world_size} on this machine"
        return ok("ranks", f"rank {found.rank} of {found.world_size}, {where}: {rule}")
    for launcher, (task, tasks) in _OTHERS.items():
        number = _count(os.environ.get(tasks, ""))
        if number > 1:
            what = f"{task}={os.environ.get(task, '')} of {number} is not read: each task would train for itself"
            hint = f"have {launcher} start one torchrun a machine, and that the ranks: it sets RANK and WORLD_SIZE"
            return warning("ranks", f"a single process, as RANK is not set; {launcher}'s {what}", hint)
    return ok("ranks", "a single process, as RANK is not set")


def _count(text: str) -> int:
    """The number that `text` is, or of what the JSON list in it has; 0 for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return 0
    return len(value) if isinstance(value, list) else value if isinstance(value, int) else 0


def _port(found: Place) -> Check:
    name = "ports"
    if os.environ.get(STORE_VARIABLE):
        return ok(name, "none is needed: the ranks meet over a file")
    if found.world_size == 1:
        if _is_free(_DEFAULT_PORT):
            return ok(name, f"{_DEFAULT_PORT}, torchrun's, is free; a single process and --processes need none")
        hint = "give torchrun --standalone, or another --master-port; --processes needs no port"
        return warning(name, f"{_DEFAULT_PORT}, torchrun's, is in use", hint)
    address, text = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    port = int(text) if text.isdecimal() else 0
    if not address or not 0 < port < 1 << 16:
        what = f"MASTER_ADDR is {address!r} and MASTER_PORT {text!r}: the ranks cannot meet"
        return failure(name, what, "start the ranks with torchrun, which sets both, or with --processes")
    if found.rank == 0 and keeps_store():
        if _is_free(port):
            return ok(name, f"{port}, where rank 0 is to listen, is free")
        return failure(name, f"{port}, where rank 0 is to listen, is in use", "choose another MASTER_PORT on all ranks")
    return _reach(address, port)


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError:
            return False
    return True


def _reach(address: str, port: int) -> Check:
    try:
        socket.create_connection((address, port), _CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        hint = "start rank 0, or torchrun there, and look again; if it runs, its MASTER_PORT is another"
        return warning("ports", f"nobody listens at {address}:{port} yet", hint)
    except OSError as error:
        hint = "see to MASTER_ADDR, which must be a name or address of rank 0's machine, and to the firewall between"
        return failure("ports", f"{address}:{port} cannot be reached: {error.strerror or error}", hint)
    return ok("ports", f"{address}:{port} answers")
