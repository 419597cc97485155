"""log.txt: every line that was shown, and every warning and traceback, whoever it came from."""

import faulthandler
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from imagesprint.console import Console
from imagesprint.errors import ImagesprintError
from imagesprint.files import naming


@contextmanager
def run_log(path: Path, console: Console) -> Iterator[None]:
    """Have all that `console` shows, Python's warnings, and tracebacks of threads and crashes, written to `path`."""
    with naming("write", path):
        console.log_to(path)
        crashes = path.open("a")
    shown, uncaught = warnings.showwarning, threading.excepthook

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG001 (as Python calls it)
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        console.warn(f"{' '.join(str(message).split())} ({category.__name__}, {filename}:{lineno})")

    def thread_failed(args: threading.ExceptHookArgs) -> None:
        console.note("".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)))
        uncaught(args)

    warnings.showwarning, threading.excepthook = warn, thread_failed
    try:
        faulthandler.enable(crashes)
        yield
    finally:
        faulthandler.disable()
        with suppress(OSError):  # what is written there goes past Python's buffers
            crashes.close()
        warnings.showwarning, threading.excepthook = shown, uncaught


@contextmanager
def failure_log(path: Path, rank: int) -> Iterator[None]:
    """Append to `path` what rank `rank` fails with, with its traceback, where there is a run and space for that."""
    try:
        yield
    except BaseException as error:
        if path.parent.is_dir():
            log = Console.silent()
            with suppress(OSError):
                log.log_to(path)
                log.note(f"rank {rank}: {_described(error)}\n{''.join(traceback.format_exception(error))}")
                log.close()
        raise


def _described(error: BaseException) -> str:
    if isinstance(error, ImagesprintError):
        return f"error: {error.what}\nhint: {error.hint}"
    return f"error: {type(error).__name__}: {error}"
