"""Programs side by side: each in a process of its own, taking turns, so that a noisy moment hits all of them alike."""

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

from imagesprint.errors import ImagesprintError, RunError

Pass = Callable[[], Mapping[str, Any] | None]  # does the work once; may return figures of its own
Open = Callable[[], Pass]  # makes ready: imports, reads images, starts threads; pickled to the process

_END_SECONDS: Final = 5.0  # that a process has to end by itself


@dataclass(frozen=True)
class PassTime:
    """What one pass took: seconds, and CPU seconds of the process with its children. `extra` is what it returned."""

    seconds: float
    cpu_seconds: float
    extra: Mapping[str, Any] = field(default_factory=dict)


def run_rounds(
    programs: Mapping[str, Open], optional: Container[str], rounds: int, on_pass: Callable[[str], None]
) -> tuple[dict[str, list[PassTime]], dict[str, str]]:
    """Run each program once a round, in turn, after a pass that is not counted; return their samples.

    One of `optional` that fails at its first pass is left out; the second dictionary has the reason. `on_pass` is told
    the name before each pass. Raises what else a program raises: an ImagesprintError, a RunError where it is none.
    """
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        running: dict[str, Callable[[], PassTime]] = {}
        for name, program in programs.items():
            on_pass(name)
            run = stack.enter_context(_process(name, program))
            try:
                run()
                running[name] = run
            except ImagesprintError as error:
                if name not in optional:
                    raise
                left_out[name] = error.what
        samples: dict[str, list[PassTime]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, run in running.items():
                on_pass(name)
                samples[name].append(run())
    return samples, left_out


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the median of a ÷ b, round by round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


@contextmanager
def _process(name: str, program: Open) -> Iterator[Callable[[], PassTime]]:
    """A program in a process of its own, that waits between its passes. What is yielded has it do one, and raises what
    that raises.
    """
    context = multiprocessing.get_context("spawn")  # no fork: the caller has torch's threads
    connection, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, program))
    process.start()
    theirs.close()

    def run() -> PassTime:
        try:
            connection.send(True)
            answer = connection.recv()
        except (EOFError, OSError):
            raise RunError(f"the process of {name} ended") from None
        if isinstance(answer, ImagesprintError):
            raise answer
        assert isinstance(answer, PassTime)
        return answer

    try:
        yield run
        connection.close()  # which it takes for the end
        process.join(_END_SECONDS)
    finally:
        connection.close()
        process.terminate()
        process.join()


def _serve(connection: Connection, program: Open) -> None:
    """Answer each message by the PassTime of a pass, or by the error; until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries say, to either, must not get between our results
        os.dup2(nowhere, stream)
    try:
        run: Pass | None = None
        while connection.recv():
            try:
                run = run or program()
                connection.send(_measure(run))
            except ImagesprintError as error:
                connection.send(error)
            except Exception as error:  # of somebody else's library: whatever it raises
                connection.send(RunError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    except (EOFError, OSError):
        pass


def _measure(run: Pass) -> PassTime:
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    extra = run()
    return PassTime(time.perf_counter() - start, _cpu_seconds() - cpu_start, extra or {})


def _cpu_seconds() -> float:
    """CPU time so far of this process and of its children, the living ones too, whom getrusage leaves out."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    return sum(time.clock_gettime(_cpu_clock(pid)) for pid in pids if pid is not None)


def _cpu_clock(pid: int) -> int:
    """What clock_getcpuclockid(3) returns on Linux: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel."""
    return (~pid << 3) | 2
