"""A run whose place is a URL: training writes into a folder of this machine, and a process sends what it finds there.

Rank 0 has that process (`mirror_process.py`), which holds the run's lease and talks to the store; no other rank does,
but for the first one of each further machine, which fetches what its ranks read. The folder lies in the cache. It goes
once all of it is at the URL, so a run that is named by its URL is where that says, and nowhere else; what a kill or a
store that did not answer has left there is used, and sent, by the same command on the same machine.

A run in a folder of this machine is its own copy: nothing here then does anything.
"""

import hashlib
import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from imagesprint import errors
from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.checkpoints.naming import checkpoint_path, list_checkpoints, step_of
from imagesprint.checkpoints.retention import Retention
from imagesprint.console import Console
from imagesprint.errors import (
    CheckpointError,
    ImagesprintError,
    LostLeaseError,
    RunError,
    StoppedError,
    StorageError,
    UsageError,
)
from imagesprint.files import naming, shown_as
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs import sending
from imagesprint.runs.directory import RunDirectory, hold_lock, run_lock
from imagesprint.runs.environment import StopSignals, rank_environment
from imagesprint.runs.ranks import Ranks
from imagesprint.storage.cache import cache_folder
from imagesprint.storage.store import open_store
from imagesprint.storage.url import READ_ONLY, Place, Url

END_SECONDS: Final = 600.0  # without any file arriving, at the end of a training, until it is given up
STOP_SECONDS: Final = 60.0  # in all, where a signal or an error ended the training: who sent it may soon kill
RESTART_SECONDS: Final = 10.0  # between two starts of a process that died
_CLOSE_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.2


class RunCopy:
    """Where training writes: the run directory at `path` itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one command that writes the run. Raises UsageError where another does."""
        with run_lock(self.path):
            yield

    def share(self, ranks: Ranks) -> None:
        """Have every rank find at `path` what rank 0 does; all ranks call it."""

    def begin(self, step: int) -> None:
        """Go on from `step`: what was logged of later steps is dropped."""

    def surplus(self, keep: Retention, schedule: Schedule, top1: Callable[[], Mapping[int, float]]) -> list[Path]:
        """The checkpoints that `keep` does not want any more."""
        return keep.surplus(self.path, schedule, top1)

    def look(self) -> None:
        """Raise RunError where another command has taken the run over."""


@contextmanager
def run_copy(output: Place, console: Console) -> Iterator[RunCopy]:
    """A place to train in for the time of the block, whose files are at `output` when it ends.

    For a URL, rank 0 waits for that: as long as files arrive, and END_SECONDS more, or STOP_SECONDS in all after a
    signal or an error. Raises StorageError where something is missing then, naming it and the folder where it lies.
    """
    if isinstance(output, Path):
        yield RunCopy(output)
        return
    if output.scheme in READ_ONLY:
        raise UsageError(
            f"--output {output}: {output.scheme} can only be read", "choose s3://, hdfs://, gs:// or az://"
        )
    folder = cache_folder() / "runs" / hashlib.sha256(str(output).encode()).hexdigest()[:16]
    rank, _, local_rank, on_each = rank_environment()
    if rank >= on_each:  # of another machine, whose cache may lie on the disk of rank 0's
        folder = folder.with_name(f"{folder.name}-{rank // on_each}")
    console.show_as(folder, output)
    if rank > 0:
        with shown_as(folder, output):
            yield _FollowedCopy(output, folder)
        if rank >= on_each and local_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return
    with _folder_lock(folder, output), _MirroredCopy(output, folder, console) as mirror, shown_as(folder, output):
        yield mirror


@contextmanager
def _folder_lock(folder: Path, output: Url) -> Iterator[None]:
    with naming("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder.with_name(f"{folder.name}.lock"), output):
        yield


class _FollowedCopy(RunCopy):
    """Of a rank that is not the first: it only reads."""

    def __init__(self, url: Url, folder: Path) -> None:
        super().__init__(folder)
        self._url = url

    def share(self, ranks: Ranks) -> None:
        ranks.barrier()
        if ranks.local_world_size == ranks.world_size:
            return
        if ranks.local_rank == 0:
            self._fetch()
        ranks.barrier()

    def _fetch(self) -> None:
        store = open_store(self._url)
        sending.clear(self.path)
        sending.pull(store, self.path)
        if not RunDirectory(self.path).result_file.exists():
            _have_newest(self.path, sending.checkpoint_keys(store), sending.Sender(store, self.path).fetch)


class _MirroredCopy(RunCopy):
    """Of rank 0: the process that sends, and what it says."""

    def __init__(self, url: Url, folder: Path, console: Console) -> None:
        super().__init__(folder)
        self._url, self._console = url, console
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._there: set[str] = set()  # checkpoints at the URL
        self._forgotten: set[str] = set()  # of these, what need not stay: another process that sends must know, too
        self._left: dict[str, Any] = {"count": 0, "bytes": 0, "names": []}
        self._moved = 0.0  # when a file arrived last, by time.monotonic
        self._failure = ""  # what the store says, while it fails
        self._lost: ImagesprintError | None = None
        self._is_serving = self._is_finishing = False
        self._done, self._closing = threading.Event(), threading.Event()

    def __enter__(self) -> "_MirroredCopy":
        self._start("pull")
        threading.Thread(target=self._listen, name="mirror", daemon=True).start()
        try:
            ready = self._await("ready")
            self._there = {*ready["checkpoints"]}
            if not RunDirectory(self.path).result_file.exists():
                _have_newest(self.path, self._there, self._fetch)
            self._is_serving = True
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._console.show_as(self.path, self.path)  # from here on it is the copy that is spoken of
        try:
            missing = self._finish(END_SECONDS if error is None else STOP_SECONDS, in_all=error is not None)
        finally:
            self._close()
        if missing is None:
            shutil.rmtree(self.path, ignore_errors=True)
        elif error is None:
            raise missing
        elif isinstance(error, StoppedError):
            error.what = f"{error.what} here; {missing.what}"
            error.args = (error.what,)
        else:
            self._console.warn(f"{missing.what}; {missing.hint}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield  # it was taken before anything was fetched

    def share(self, ranks: Ranks) -> None:
        if ranks.world_size == 1:
            return
        several = ranks.local_world_size < ranks.world_size
        if several:  # the others fetch what is at the URL
            self._say("settle")
            self._await("settled")
        ranks.barrier()
        if several:
            ranks.barrier()

    def begin(self, step: int) -> None:
        # What is there of later steps is damaged, and must not count among the last that stay.
        self._there = {key for key in self._there if (step_of(Path(key)) or 0) <= step}
        self._say("begin", step=step)

    def surplus(self, keep: Retention, schedule: Schedule, top1: Callable[[], Mapping[int, float]]) -> list[Path]:
        here = {step_of(file): file for file in list_checkpoints(self.path)}
        there = {step_of(Path(key)) for key in self._there.copy()}
        steps = keep.dispensable(sorted(there.union(here)), schedule, top1() if keep.best else {})
        keys = [str(checkpoint_path(Path(), step)) for step in steps]  # also those that are on their way
        if keys:
            self._forgotten.update(keys)
            self._say("forget", keys=keys)
            self._there.difference_update(keys)
        return [here[step] for step in steps if step in here]

    def look(self) -> None:
        if self._lost is not None:
            raise RunError(self._lost.what, self._lost.hint) from self._lost

    def _fetch(self, key: str) -> None:
        self._console.line(f"fetching    {self._url / key}")
        self._say("fetch", key=key)
        self._await("fetched")

    def _start(self, mode: str) -> None:
        words = [sys.executable, "-P", "-m", "imagesprint.runs.mirror_process", str(self._url), str(self.path), mode]
        # A session of its own: a Ctrl-C is rank 0's to hear. It dies with rank 0 all the same.
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def _listen(self) -> None:
        """Hear the process, and start it again where it dies: the kernel ends it with the thread that started it."""
        while True:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self._hear(json.loads(line))
            code = self._process.wait()
            if not self._is_serving or self._done.is_set() or self._lost is not None or self._closing.is_set():
                self._answers.put({"kind": "ended", "code": code})
                return
            self._console.warn(f"the process that sends to {self._url} has ended ({code}): another is started")
            if self._closing.wait(RESTART_SECONDS):
                return
            self._start("go-on")
            self._say("forget", keys=sorted(self._forgotten.copy()))
            if self._is_finishing:
                self._say("finish")

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "line":
            self._failure = ""
            self._console.line(message["text"])
        elif kind == "warning":
            self._failure = message["what"]
            more = "training goes on, and what is missing there is sent when that is over"
            self._console.warn(f"{message['what']} ({message['hint']}); {more}")
        elif kind == "sent":
            self._moved, self._failure = time.monotonic(), ""
            if sending.step_of(message["key"]) is not None:
                self._there.add(message["key"])
        elif kind == "left":
            self._left = message
        elif kind == "done":
            self._done.set()
        elif kind == "error" and message["type"] == LostLeaseError.__name__:
            self._lost = _as_error(message)
        elif kind == "error" and self._is_serving:
            self._failure = message["what"]
        else:
            self._answers.put(message)

    def _await(self, kind: str) -> dict[str, Any]:
        """The answer of that kind. Raises what the process fails with, and RunError where it ends without a word."""
        while True:
            self.look()
            with suppress(queue.Empty):
                answer = self._answers.get(timeout=1.0)  # not for ever: a Ctrl-C is heard
                if answer["kind"] == kind:
                    return answer
                if answer["kind"] == "error":
                    raise _as_error(answer)
                raise RunError(
                    f"the process that is to send to {self._url} has ended ({answer['code']})", "give the command again"
                )

    def _say(self, kind: str, **values: object) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it died: the one that takes its place sees by the folder what is to be done
            self._process.stdin.write(json.dumps({"kind": kind, **values}) + "\n")
            self._process.stdin.flush()

    def _finish(self, limit: float, in_all: bool) -> StorageError | None:
        """Wait until all is at the URL; the error that names what is not, once the limit has passed."""
        self._is_finishing = True
        self._moved = began = time.monotonic()
        self._say("finish")
        with StopSignals() as signals:
            while not self._done.wait(_POLL_SECONDS) and self._lost is None:
                if signals.number and not in_all:
                    limit, in_all, began = STOP_SECONDS, True, time.monotonic()
                waited = time.monotonic() - (began if in_all else max(began, self._moved))
                if waited > limit:
                    break
                if time.monotonic() - began > 1:
                    left = f"sending     {self._left['count']} files, {self._left['bytes'] / 1e6:,.1f} MB left"
                    self._console.live(left, f"to {self._url}", *([self._failure] if self._failure else []))
        if self._done.is_set():
            return None
        return self._missing()

    def _missing(self) -> StorageError:
        if self._lost is not None:
            return StorageError(self._lost.what, self._lost.hint)
        count, names = self._left["count"], self._left["names"]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        listed = f"{', '.join(names)}{more}" if names else "what could not be found out"
        why = f" ({self._failure})" if self._failure else ""
        return StorageError(
            f"not at {self._url} yet: {listed}{why}",
            f"give the same command again on this machine: it sends what lies in {self.path}",
        )

    def _close(self) -> None:
        self._closing.set()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _have_newest(run: Path, there: Iterable[str], fetch: Callable[[str], None]) -> None:
    """Have the newest whole checkpoint lie in `run`; `there` are the keys of those that `fetch` can bring.

    Damaged ones that are newer lie there, too, and are set aside by who goes on from it.
    """
    keys = {*there, *(f"checkpoints/{file.name}" for file in list_checkpoints(run))}
    for key in sorted(keys, key=lambda key: step_of(Path(key)), reverse=True):
        is_here = (run / key).exists()
        for _ in range(1 if is_here else 2):  # one that comes damaged may be whole where it comes from
            if not is_here:
                fetch(key)
            with suppress(CheckpointError):
                read_training_checkpoint(run / key)
                return


def _as_error(message: Mapping[str, Any]) -> ImagesprintError:
    kind: type[ImagesprintError] = getattr(errors, message["type"], RunError)
    return kind(message["what"], message["hint"])
