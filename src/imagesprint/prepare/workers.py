"""Sharing shards among processes, each connected by a pipe.

Not a ProcessPoolExecutor: its workers wait for ever when the process that started them is killed, and they
cannot tell of progress. Here a worker ends when its pipe does.
"""

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from imagesprint.errors import DataError, ImagesprintError
from imagesprint.prepare.parts import ShardResult
from imagesprint.prepare.shard_writing import ShardJob, write_shard

OnImages = Callable[[int], None]
OnShard = Callable[[ShardResult], None]

_Message = int | ShardResult | BaseException

_GOES_ON = "the same command goes on where it stopped"


def run_jobs(jobs: Sequence[ShardJob], num_workers: int, on_images: OnImages, on_shard: OnShard) -> None:
    """Write every shard, in this process if `num_workers` is 1, else in so many others.

    `on_images` is told of progress, `on_shard` of each finished shard; both in this process. Raises what the first
    failing worker raised; DataError if one was killed. No worker is left behind.
    """
    num_workers = min(num_workers, len(jobs))
    if num_workers == 1:
        for job in jobs:
            on_shard(write_shard(job, on_images))
        return
    workers: dict[Connection, SpawnProcess] = {}
    try:
        queue = iter(jobs)
        with _interrupts_put_off():
            for _ in range(num_workers):
                connection, process = _start()
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
                on_shard(message)
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


def _start() -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # no fork: the caller may have threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    try:
        process.start()
    except OSError as error:
        raise DataError(
            f"a worker process of prepare did not start: {error.strerror}", f"use fewer --workers; {_GOES_ON}"
        ) from error
    theirs.close()
    return ours, process


def _send(connection: Connection, process: SpawnProcess, job: ShardJob) -> None:
    try:
        connection.send(job)
    except OSError:
        raise _ended(process) from None


def _receive(connection: Connection, process: SpawnProcess) -> int | ShardResult:
    try:
        message: _Message = connection.recv()
    except (EOFError, OSError):
        raise _ended(process) from None
    if isinstance(message, BaseException):
        raise message
    return message


def _ended(process: SpawnProcess) -> DataError:
    process.join()
    return DataError(
        f"a worker process of prepare ended unexpectedly (exit code {process.exitcode})",
        f"-9 mostly means too little memory: use fewer --workers; {_GOES_ON}",
    )


def _work(connection: Connection) -> None:
    """Write shard after shard until the pipe ends: the parent is gone, or has what it wanted."""
    with suppress(EOFError, OSError):
        while True:
            connection.send(_outcome(connection.recv(), connection.send))


def _outcome(job: ShardJob, on_images: OnImages) -> ShardResult | BaseException:
    """Return the shard's result, or what went wrong."""
    try:
        return write_shard(job, on_images)
    except ImagesprintError as error:
        return error
    except Exception:  # it may not survive pickling: its text does
        return RuntimeError(traceback.format_exc())
