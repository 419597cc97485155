"""Sharing jobs among processes, each connected by a pipe.

Not a ProcessPoolExecutor: its workers wait for ever when the process that started them is killed, and they
cannot tell of progress. Here a worker ends when its pipe does.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, TypeVar

from imagesprint.errors import DataError, ImagesprintError, UsageError
from imagesprint.memory import keep_freed_blocks

OnImages = Callable[[int], None]

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_Work = Callable[[_Job, OnImages], _Result]


_AGAIN = "use fewer --workers, then give the same command again"


def count_workers(wanted: int | None) -> int:
    """Return the number of processes to use: as many as there are cores for None. Raises UsageError below 1."""
    if wanted is None:
        return len(os.sched_getaffinity(0))
    if wanted < 1:
        raise UsageError(f"--workers {wanted} is less than 1", "leave it out to use all cores")
    return wanted


def run_jobs(
    work: _Work[_Job, _Result],
    jobs: Sequence[_Job],
    num_workers: int,
    on_images: OnImages,
    on_result: Callable[[_Result], None],
) -> None:
    """Do `work`, a function that a module names, on every job: here if `num_workers` is 1, else in so many processes.

    `on_images` is told of progress, `on_result` what each job came to, as soon as it is done; both in this process.
    Raises what the first failing worker raised; DataError if one was killed. No worker is left behind.
    """
    num_workers = min(num_workers, len(jobs))
    if num_workers == 1:
        for job in jobs:
            on_result(work(job, on_images))
        return
    workers: dict[Connection, SpawnProcess] = {}
    try:
        queue = iter(jobs)
        with _interrupts_put_off():
            for _ in range(num_workers):
                connection, process = _start(work)
                workers[connection] = process
        for connection, process in workers.items():
            _send(connection, process, next(queue))
        busy = set(workers)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                message = _receive(ready, workers[ready])
                if isinstance(message, int):
                    on_images(message)
                    continue
                on_result(message)
                following = next(queue, None)
                if following is None:
                    busy.remove(ready)
                else:
                    _send(ready, workers[ready], following)
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


@contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """Have Ctrl-C wait for the end of the block, and never reach a process that is started in it.

    A process whose start is interrupted halfway would end in a traceback.
    """
    # The resource tracker of multiprocessing must run before: starting it would lift the mask.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process keeps it
    # The mask is this thread's alone: another one, such as numpy's, may take the signal and Python act on it here.
    handler = signal.getsignal(signal.SIGINT)
    arrived: list[tuple[int, FrameType | None]] = []
    in_main = threading.current_thread() is threading.main_thread() and callable(handler)
    if in_main:
        signal.signal(signal.SIGINT, lambda number, frame: arrived.append((number, frame)))
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if arrived and callable(handler):
        handler(*arrived[0])


def _start(work: _Work[Any, Any]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # no fork: the caller may have threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, work), daemon=True)
    try:
        process.start()
    except OSError as error:
        raise DataError(f"a worker process did not start: {error.strerror}", _AGAIN) from error
    theirs.close()
    return ours, process


def _send(connection: Connection, process: SpawnProcess, job: object) -> None:
    try:
        connection.send(job)
    except OSError:
        raise _ended(process) from None


def _receive(connection: Connection, process: SpawnProcess) -> Any:
    """Return a worker's number of images done, or a job's result; raise what went wrong there."""
    try:
        message = connection.recv()
    except (EOFError, OSError):
        raise _ended(process) from None
    if isinstance(message, BaseException):
        raise message
    return message


def _ended(process: SpawnProcess) -> DataError:
    process.join()
    return DataError(
        f"a worker process ended unexpectedly (exit code {process.exitcode})",
        f"-9 mostly means too little memory: {_AGAIN}",
    )


def _work(connection: Connection, work: _Work[Any, Any]) -> None:
    """Do job after job until the pipe ends: the parent is gone, or has what it wanted."""
    keep_freed_blocks()
    with suppress(EOFError, OSError):
        while True:
            connection.send(_outcome(work, connection.recv(), connection.send))


def _outcome(work: _Work[_Job, _Result], job: _Job, on_images: OnImages) -> _Result | BaseException:
    """Return the job's result, or what went wrong."""
    try:
        return work(job, on_images)
    except ImagesprintError as error:
        return error
    except OSError as error:
        return error if error.errno is not None else RuntimeError(traceback.format_exc())
    except Exception:  # it may not survive pickling: its text does
        return RuntimeError(traceback.format_exc())
