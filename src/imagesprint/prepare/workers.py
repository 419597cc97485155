"""Sharing shards among processes, each connected by a pipe.

Not a ProcessPoolExecutor: its workers wait for ever when the process that started them is killed, and they
cannot tell of progress. Here a worker ends when its pipe does.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from imagesprint.errors import DataError, ImagesprintError
from imagesprint.prepare.parts import ShardResult
from imagesprint.prepare.shard_writing import ShardJob, write_shard

OnImages = Callable[[int], None]
OnShard = Callable[[ShardResult], None]

_Message = int | ShardResult | BaseException


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
        for _ in range(num_workers):
            connection, process = _start()
            workers[connection] = process
            connection.send(next(queue))
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
                    ready.send(following)
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


def _start() -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # no fork: the caller may have threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    # Ctrl-C is for this process to act on; the new one keeps the mask it is started with. The resource tracker of
    # multiprocessing must run before: starting it would lift the mask.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return ours, process


def _receive(connection: Connection, process: SpawnProcess) -> int | ShardResult:
    try:
        message: _Message = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise DataError(
            f"a worker process of prepare ended unexpectedly (exit code {process.exitcode})",
            "-9 mostly means too little memory: use fewer --workers; the same command goes on where it stopped",
        ) from None
    if isinstance(message, BaseException):
        raise message
    return message


def _work(connection: Connection) -> None:
    """Write shard after shard until the pipe ends."""
    try:
        while True:
            job = connection.recv()
            try:
                connection.send(write_shard(job, connection.send))
            except ImagesprintError as error:
                connection.send(error)
            except OSError:
                raise
            except Exception:  # it may not survive pickling: its text does
                connection.send(RuntimeError(traceback.format_exc()))
    except (EOFError, OSError):
        return  # the parent is gone, or has what it wanted
