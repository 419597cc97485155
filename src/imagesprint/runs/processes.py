"""`--processes N`: one command becomes N ranks on this machine, which live and die with it."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import FrameType

from imagesprint.errors import LostRankError, RankError

LAUNCHER_VARIABLE = "IMAGESPRINT_LAUNCHER"  # process id of the launcher, for its ranks
STORE_VARIABLE = "IMAGESPRINT_STORE"  # the file over which its ranks find each other
GRACE_SECONDS = 10.0  # for ranks to end by themselves once one has failed or a signal came
POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def is_launcher(processes: int) -> bool:
    """Whether this process is to start `processes` ranks, rather than being one. Raises RankError on a conflict."""
    if LAUNCHER_VARIABLE in os.environ or processes == 1:
        return False
    if "RANK" in os.environ:
        raise RankError(
            f"--processes {processes} inside a rank environment (RANK={os.environ['RANK']})",
            "leave --processes away under torchrun, or unset RANK",
        )
    return True


def is_main_rank() -> bool:
    """Whether this process is the one to print a result: rank 0, also under torchrun, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def run_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run `imagesprint ARGUMENTS` as `count` local ranks and wait; returns the exit code of the whole.

    That is 0 when every rank ended well, otherwise the code of the rank that failed by itself, 130 after Ctrl-C
    and 143 after SIGTERM. The ranks stay in this process group and are killed by the kernel when this process
    dies. Rank 0 writes to this process's own output; another rank is heard only if it is the one that failed.
    """
    with tempfile.TemporaryDirectory(prefix="imagesprint-") as folder:
        ranks = [_Rank(rank, count, arguments, folder) for rank in range(count)]
        return _Supervisor(ranks).wait()


def die_with_launcher() -> None:
    """In a rank that `run_ranks` started: have the kernel kill this process when the launcher dies.

    Does nothing in any other process.
    """
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it died before the line above took effect
        os.kill(os.getpid(), signal.SIGKILL)


class _Rank:
    """One rank's process, and what it printed unless it is rank 0."""

    def __init__(self, rank: int, count: int, arguments: Sequence[str], folder: str) -> None:
        self.number = rank
        self._outputs = [open(os.path.join(folder, f"{name}-{rank}"), "w+b") for name in ("stdout", "stderr")]  # noqa: SIM115
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            LAUNCHER_VARIABLE: str(os.getpid()),
            STORE_VARIABLE: os.path.join(folder, "store"),
        }
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are here: no need for a name or a network
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imagesprint", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else self._outputs[0],
            stderr=None if rank == 0 else self._outputs[1],
        )

    @property
    def code(self) -> int | None:
        """The exit code as a shell has it (128 + signal), None while it runs."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    def replay(self) -> None:
        """Print what this rank printed before it failed."""
        for captured, stream in zip(self._outputs, (sys.stdout, sys.stderr), strict=True):
            captured.seek(0)
            stream.write(captured.read().decode(errors="replace"))
            stream.flush()
        if self.code is not None and self.code > 128:
            print(f"error: rank {self.number} was ended by signal {self.code - 128}", file=sys.stderr)
            print("hint: run the same command again to resume from the last checkpoint", file=sys.stderr)


class _Supervisor:
    """Waits for the ranks; once one fails or a signal comes, ends the others, gently and then by force."""

    def __init__(self, ranks: list[_Rank]) -> None:
        self._ranks = ranks
        self._signal = 0
        self._failed: list[_Rank] = []  # those that ended badly before they were told to end
        self._deadline = float("inf")
        self._previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def wait(self) -> int:
        try:
            while any(rank.code is None for rank in self._ranks):
                self._watch()
                time.sleep(POLL_SECONDS)
            self._watch()
        finally:
            for rank in self._ranks:
                rank.process.kill()
                rank.process.wait()
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        return self._verdict()

    def _watch(self) -> None:
        if self._deadline == float("inf"):
            self._failed = [rank for rank in self._ranks if rank.code]
            if self._failed:
                time.sleep(POLL_SECONDS)  # the rank that caused it may take a moment longer to end
                self._failed = [rank for rank in self._ranks if rank.code]
                self._end(signal.SIGTERM)
        elif time.monotonic() > self._deadline:
            for rank in self._ranks:
                rank.process.kill()

    def _end(self, number: int) -> None:
        self._deadline = time.monotonic() + GRACE_SECONDS
        for rank in self._ranks:
            if rank.code is None:
                rank.process.send_signal(number)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        self._end(number)

    def _verdict(self) -> int:
        if self._signal:
            return 128 + self._signal
        if not self._failed:
            return 0
        own = [rank for rank in self._failed if rank.code != LostRankError.exit_code]
        cause = own[0] if own else self._failed[0]
        if cause.number != 0 or (cause.code or 0) > 128:
            cause.replay()
        return cause.code if own and cause.code else 1
