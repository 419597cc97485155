"""`--processes N`: one command becomes N ranks on this machine, which live and die with it.

Where SLURM or SageMaker started that command on several machines, the ranks of all are those of one training.
"""

import fcntl
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from imagesprint.console import mute, printable_lines, write_result
from imagesprint.errors import LostRankError, RankError, RunError
from imagesprint.files import naming
from imagesprint.runs.environment import (
    LAUNCHER_VARIABLE,
    STOPPING,
    STORE_VARIABLE,
    TMPDIR_HINT,
    Launch,
    exit_code,
    find_launch,
    heeded,
    is_launched,
    met_mark,
)

GRACE_SECONDS = 10.0  # for ranks to end by themselves once another one failed
CAUSE_SECONDS = 5.0  # for the rank that others lost contact with to end and say why
ECHO_SECONDS = 1.0  # for the other ranks to end by the same error, so that none is told to while it says so
TERMINAL_SECONDS = 0.5  # for ranks to end by what a terminal sends to all (Ctrl-C, its end), before they are told again
POLL_SECONDS = 0.05
FOLDER_PREFIX = "imagesprint-ranks-"
ABORTED = 128 + signal.SIGABRT
# How a rank may end because another one did: by saying so, or by an abort while gloo takes its connections down.
AFTERMATH = (LostRankError.exit_code, ABORTED)
STOPPED = tuple({exit_code(number) for number in STOPPING})  # of a rank that saved
# How a rank may end that was told to: by saying so, or, where it had not begun to train yet, by the signal itself.
TOLD = (*STOPPED, *(128 + number for number in STOPPING))


def is_launcher(processes: int) -> bool:
    """Whether this process is to start `processes` ranks, rather than being one. Raises RankError on a conflict."""
    if is_launched() or processes == 1:
        return False
    if "RANK" in os.environ:
        raise RankError(
            f"--processes {processes} inside a rank environment (RANK={os.environ['RANK']})",
            "leave --processes away under torchrun, or unset RANK",
        )
    return True


def all_ranks(processes: int) -> int:
    """Return how many ranks `--processes` makes on all machines together. Raises RankError."""
    launch = _launch_on_nodes(processes)
    return processes * (launch.place.world_size if launch is not None else 1)


def _launch_on_nodes(processes: int) -> Launch | None:
    """This process as one of those that start ranks, one a machine; None where it alone does."""
    launch = find_launch()
    if launch is not None and launch.place.local_world_size > 1:
        here = launch.place.local_world_size
        raise RankError(
            f"--processes {processes} in each of {here} tasks on one machine: {here * processes} ranks there",
            "start one task a machine (srun --ntasks-per-node=1), or leave --processes away: each task is then a rank",
        )
    return launch


def run_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run `imagesprint ARGUMENTS` as `count` local ranks and wait; returns the exit code of the whole.

    That is 0 when every rank ended well, otherwise the code of the rank that failed by itself; 130 after Ctrl-C and
    143 after SIGTERM, SIGUSR1 or SIGHUP, which are passed on: the ranks take the time that they need to save, a second
    signal ends them at once (but SIGHUP: see `StopSignals`). Raises RunError where a rank was killed. The ranks stay
    in this process group and are killed by the kernel when this process dies. Rank 0 shows its progress; of what the
    ranks print otherwise, one is heard: rank 0 if all is well, else the one that failed.
    """
    launch = _launch_on_nodes(count)
    if launch is not None:
        launch.choose_interface()
        ranks = [_Rank(arguments, launch.variables(count, local)) for local in range(count)]
        return _Supervisor(ranks, are_all=False).wait()
    with _meeting_place() as folder:
        store = os.path.join(folder, "store")
        ranks = [_Rank(arguments, _variables(rank, count, store), store) for rank in range(count)]
        return _Supervisor(ranks).wait()


def _variables(rank: int, count: int, store: str) -> dict[str, str]:
    """What tells a rank of one machine who it is."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        STORE_VARIABLE: store,
        # All ranks are here: no need for a name or a network.
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }


@contextmanager
def _meeting_place() -> Iterator[str]:
    """A temporary folder for the ranks' store, locked while it is in use; removes those that killed launchers left."""
    for left in glob.glob(os.path.join(tempfile.gettempdir(), f"{FOLDER_PREFIX}*")):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    with _writing_tmpdir():
        folder = tempfile.mkdtemp(prefix=f"new-{FOLDER_PREFIX}")
    with ExitStack() as stack:
        stack.callback(lambda: _remove(folder))
        with suppress(OSError):  # where there are no locks, no launcher takes away the folder of another
            stack.enter_context(_locked(folder))
        # It gets its name once it is locked: another launcher takes away what is not.
        named = folder.replace(f"new-{FOLDER_PREFIX}", FOLDER_PREFIX)
        with _writing_tmpdir():
            os.rename(folder, named)
        folder = named
        yield folder


def _remove(folder: str) -> None:
    with suppress(OSError):  # of an fstat, which ignore_errors leaves out
        shutil.rmtree(folder, ignore_errors=True)


def _writing_tmpdir() -> AbstractContextManager[None]:
    return naming("write", Path(tempfile.gettempdir()), TMPDIR_HINT)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold a lock on `folder`. Raises OSError where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


class _Rank:
    """One rank's process and what it printed; of this machine's first one standard error goes straight to ours."""

    def __init__(self, arguments: Sequence[str], variables: dict[str, str], store: str = "") -> None:
        """`variables` say which rank it is; `store` is the file over which the ranks meet, if they meet over one."""
        self.number, self._store = int(variables["RANK"]), store
        is_first = variables["LOCAL_RANK"] == "0"
        with _writing_tmpdir():
            self._stdout = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the rank)
            self._stderr = None if is_first else tempfile.TemporaryFile()  # noqa: SIM115
        environment = os.environ | variables | {LAUNCHER_VARIABLE: str(os.getpid())}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "imagesprint", *arguments],  # without the current folder on sys.path
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
        )

    @property
    def code(self) -> int | None:
        """The exit code as a shell has it (128 + signal), None while it runs."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    @property
    def is_aftermath(self) -> bool:
        """Whether it ended as a rank does because another one did."""
        return self.code in AFTERMATH and not self._is_cut_off

    @property
    def _is_cut_off(self) -> bool:
        """Whether PyTorch aborted it before it met the others, as it does where their file cannot be unlocked."""
        return self.code == ABORTED and bool(self._store) and not met_mark(self._store, self.number).exists()

    def raise_signal(self) -> NoReturn:
        """Raise the RunError that a signal ended it."""
        number = (self.code or 0) - 128
        if self._is_cut_off:
            raise RunError(
                f"rank {self.number} cannot meet the others over {self._store}: it was ended by signal {number}",
                TMPDIR_HINT,
            )
        raise RunError(
            f"rank {self.number} was ended by signal {number}",
            "signal 9 often means too little memory; run the same command again to resume",
        )

    def replay(self) -> None:
        """Print what this rank printed. Raises OSError where its result is lost: where it failed, its code says so."""
        if self._stderr is not None:
            try:
                sys.stderr.write(printable_lines(_text(self._stderr)))
            except OSError:
                mute(sys.stderr)
        with suppress(OSError) if self.code else nullcontext():
            write_result(_text(self._stdout))


def _text(captured: IO[bytes]) -> str:
    captured.seek(0)
    return captured.read().decode(sys.stdout.encoding, "backslashreplace")


class _Supervisor:
    """Waits for the ranks; tells them of a signal; once one fails, ends the others, gently and then by force."""

    def __init__(self, ranks: list[_Rank], are_all: bool = True) -> None:
        """Where these are not all ranks, others on other machines may have stopped these."""
        self._ranks, self._are_all = ranks, are_all
        self._signal = 0
        self._at_once = False  # a second signal came
        self._failed: list[_Rank] = []  # those that ended badly before they were told to end
        self._first_failure = time.monotonic()
        self._end_at = float("inf")  # when to tell the ranks to end
        self._kill_at = float("inf")
        self._previous = {number: signal.signal(number, self._on_signal) for number in heeded()}

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
        now = time.monotonic()
        if self._kill_at == float("inf"):
            told = TOLD if self._signal else () if self._are_all else STOPPED
            self._failed = [rank for rank in self._ranks if rank.code and rank.code not in told]
            if not self._failed:
                self._first_failure = now
            # A rank that lost contact can be gone before the one that it lost: leave that one time to say why.
            elif any(not rank.is_aftermath for rank in self._failed) or now - self._first_failure > CAUSE_SECONDS:
                self._end_at, self._kill_at = now + ECHO_SECONDS, now + ECHO_SECONDS + GRACE_SECONDS
        if now >= self._end_at:
            self._end_at = float("inf")
            # A Ctrl-C on a terminal has reached them already: outside of training a second one would be too many.
            number = signal.SIGTERM if self._signal in (0, signal.SIGINT) else self._signal
            for rank in self._ranks:
                rank.process.send_signal(number)
        if now >= self._kill_at:
            for rank in self._ranks:
                rank.process.kill()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal and number == signal.SIGHUP:
            return
        if self._signal not in (0, signal.SIGHUP):
            self._at_once, self._kill_at = True, now
            return
        self._signal = number
        self._end_at = now + (TERMINAL_SECONDS if number in (signal.SIGINT, signal.SIGHUP) else 0)

    def _verdict(self) -> int:
        ours = (128 + signal.SIGKILL,) if self._at_once else ()
        if self._signal and all(rank.code in (0, *TOLD, *AFTERMATH, *ours) for rank in self._ranks):
            self._ranks[0].replay()
            return exit_code(self._signal) if any(rank.code for rank in self._ranks) else 0
        if not self._failed:
            self._ranks[0].replay()
            return max(rank.code or 0 for rank in self._ranks)
        # The cause ended by an error of its own, else by a signal; the others are its aftermath. Where several came to
        # the same error it is rank 0, which has been heard already.
        failed = [*self._failed, *(rank for rank in self._ranks[:1] if 0 < (rank.code or 0) < 128)]
        cause = min(failed, key=lambda rank: (rank.is_aftermath, (rank.code or 0) > 128, rank.number))
        code = cause.code or 1
        if code == LostRankError.exit_code:
            hint = "run the same command again to resume"
            raise RunError(
                "the ranks lost contact with one another",
                hint if self._are_all else f"the other machines' logs may say why; {hint}",
            )
        cause.replay()
        if code > 128:
            cause.raise_signal()
        return code
