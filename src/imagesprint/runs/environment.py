"""What the environment says of this process as a rank, and signals ask of it. No torch: the command line asks first."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, Self

from imagesprint.errors import RankError

LAUNCHER_VARIABLE = "IMAGESPRINT_LAUNCHER"  # process id of the launcher, for the ranks of --processes
STORE_VARIABLE = "IMAGESPRINT_STORE"  # the file over which they find each other
TMPDIR_HINT = "see to that disk and its space, or name another folder by TMPDIR"  # where that file cannot be used
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun's: "True" where its agent keeps the ranks' store
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LOADED = time.monotonic()
_START = "start the ranks with --processes or torchrun"


class RankEnvironment(NamedTuple):
    """This process among all: `rank` of `world_size`, the `local_rank`-th of `local_world_size` on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


class Launch(NamedTuple):
    """This process as one of several that a launcher started which sets no RANK: `place` is that among them.

    Each is a rank, or, with `--processes`, starts ranks. They meet at `address` and `port`, over the network
    `interface`; that is empty where their libraries are to find it.
    """

    launcher: str
    place: RankEnvironment
    address: str
    port: int
    interface: str

    def choose_interface(self) -> None:
        """Have gloo and NCCL use the interface, unless their variables are set."""
        for name in _INTERFACES if self.interface else ():
            os.environ.setdefault(name, self.interface)

    def variables(self, processes: int, local_rank: int) -> dict[str, str]:
        """What torchrun would set for one of `processes` ranks that this process starts."""
        number, count, _, _ = self.place
        return {
            "RANK": str(number * processes + local_rank),
            "WORLD_SIZE": str(count * processes),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def find_launch() -> Launch | None:
    """Return this process among those that SLURM or SageMaker started; None where it is alone, or RANK is set.

    MASTER_ADDR and MASTER_PORT, where they are set, are where they meet. Raises RankError where what is said does not
    hold together.
    """
    if "RANK" in os.environ:
        return None
    from imagesprint.runs import sagemaker, slurm  # they import from here

    found = slurm.find_task() or sagemaker.find_host()
    if found is None:
        return None
    address, port = os.environ.get("MASTER_ADDR", found.address), rank_variable("MASTER_PORT", found.port)
    return found._replace(address=address, port=port)


def is_launched() -> bool:
    """Whether `--processes` started this process as one of its ranks."""
    return LAUNCHER_VARIABLE in os.environ


def met_mark(store: str, rank: int) -> Path:
    """Where a rank of `--processes` leaves an empty file once it met the others over the file at `store`."""
    return Path(f"{store}-met-{rank}")


def is_main_rank() -> bool:
    """Whether this process is the one to print a result: rank 0, also under torchrun, or the only one."""
    launch = find_launch()
    return os.environ.get("RANK", "0") == "0" and (launch is None or launch.place.rank == 0)


def is_elastic() -> bool:
    """Whether torchrun may start the ranks again in another number, as nodes are lost and come back.

    It never says so outright. With TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of its agents it tells
    every rank that no agent keeps their store. Only so can ranks meet again safely: an agent's store outlives them with
    what the former ones wrote, and not all agents learn of a new one (pytorch issue 135712, pull request 182375).
    """
    return os.environ.get(_AGENT_STORE) == "False"


def keeps_store() -> bool:
    """Whether rank 0 is to keep the ranks' store, because torchrun's agent does not."""
    return os.environ.get(_AGENT_STORE) != "True"


def rank_variable(name: str, default: int) -> int:
    """Return RANK or another number that torchrun sets, `default` where it is not set. Raises RankError."""
    text = os.environ.get(name)
    if text is None:
        if name in ("WORLD_SIZE", "LOCAL_RANK") and "RANK" in os.environ:
            raise RankError(f"RANK is set but {name} is not", f"{_START}, or unset RANK for a single process")
        return default
    if not text.isdigit():
        raise RankError(f"the environment variable {name} is {text!r}, not a number", f"unset {name}")
    return int(text)


def rank_environment() -> RankEnvironment:
    """Return what RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE say, as torchrun sets them.

    Without RANK it is what SLURM or SageMaker say (`find_launch`), else one rank. Raises RankError where it is
    incomplete, no number or does not fit together.
    """
    launch = find_launch()
    if launch is not None:
        return launch.place
    rank, world_size = rank_variable("RANK", 0), rank_variable("WORLD_SIZE", 1)
    local_rank = rank_variable("LOCAL_RANK", 0)
    local_world_size = rank_variable("LOCAL_WORLD_SIZE", world_size)
    if world_size > 1 and "RANK" not in os.environ:
        raise RankError(f"WORLD_SIZE is {world_size} but RANK is not set", f"{_START}, or unset WORLD_SIZE")
    if rank >= world_size:
        raise RankError(f"RANK is {rank} and WORLD_SIZE {world_size}", f"{_START}, or unset both for a single process")
    if local_rank >= local_world_size:
        raise RankError(f"LOCAL_RANK is {local_rank} and LOCAL_WORLD_SIZE {local_world_size}", _START)
    return RankEnvironment(rank, world_size, local_rank, local_world_size)


def die_with_launcher() -> None:
    """In a rank of `--processes`: have the kernel kill this process when the launcher dies.

    Does nothing in any other process, or where the kernel cannot do it (not Linux).
    """
    if not is_launched() or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[LAUNCHER_VARIABLE]):  # it died before the line above took effect
        os.kill(os.getpid(), signal.SIGKILL)


def command_age() -> float:
    """Return the seconds since this command began: the launcher of `--processes`, where this is one of its ranks.

    Where that cannot be seen (not Linux), since the command line was first read.
    """
    process = os.environ.get(LAUNCHER_VARIABLE, "self")
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return time.monotonic() - _LOADED
    began = int(fields.rpartition(")")[2].split()[19])  # proc(5): field 22, counted from behind the name in brackets
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")


# SIGUSR1 is what SLURM can send ahead of its limit, SIGHUP what comes when the terminal or the connection closes.
STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# A scheduler may signal every process of a job, and a parent pass the same on: one request, not two.
_REPEAT_SECONDS = 1.0


def heeded() -> tuple[signal.Signals, ...]:
    """Those of STOPPING that stop this process: not SIGHUP where `nohup` has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in STOPPING if number != signal.SIGHUP or not ignored)


def exit_code(number: int) -> int:
    """The exit code of a command that ended because of signal `number`: 130 for Ctrl-C, 143 for the others."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


def end_stopped() -> None:
    """Until StopSignals is entered, have a signal end this process at once, with the exit code of one that was stopped.

    By themselves SIGUSR1 and SIGHUP would end it with another, and nothing ends the first process of a container.
    """
    if threading.current_thread() is threading.main_thread():
        for number in heeded():
            if number != signal.SIGINT:
                signal.signal(number, lambda number, _: os._exit(exit_code(number)))


class StopSignals:
    """While entered, `number` is that of the first of STOPPING that came, 0 before. A second one ends the process.

    `noted_at` is when it came, by time.monotonic. SIGHUP is nobody's second word: shell, kernel and systemd may each
    send it when a terminal closes, so it ends nothing at once, and the one after it counts as the first.

    In a rank of `--processes` every further one is the first again: the launcher ends its ranks where it is told
    twice. Outside of the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.number = 0
        self.noted_at = 0.0

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._note) for number in heeded() if in_main_thread}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number or (self.number == signal.SIGHUP and number != signal.SIGHUP):
            self.number, self.noted_at = number, now
        elif number != signal.SIGHUP and not is_launched() and now - self.noted_at > _REPEAT_SECONDS:
            os._exit(exit_code(number))
