"""What a tracker is to `track`, and which there are."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Final, Protocol

from imagesprint.errors import ImagesprintError, TrackerError
from imagesprint.tracking.points import Key, Point, RunIdentity, Setting

PROJECT: Final = "imagesprint"  # where runs go unless the tracker's own variables name an experiment or a project
_LONGEST_MESSAGE: Final = 300  # characters of what a library says


class Tracker(Protocol):
    """One run at a tracker, found again or made anew when it is opened. All methods raise TrackerError."""

    @property
    def where(self) -> str:
        """Where people find the run: a URL or a folder."""

    def sent(self) -> set[Key]:
        """The figures that are there already, whoever sent them."""

    def send(self, points: Sequence[Point]) -> None:
        """Add points that are not there yet, oldest first; their time and step are kept."""

    def finish(self, outcome: str, facts: Mapping[str, Setting], files: Sequence[Path]) -> None:
        """Say how the run stands, what else is known of it, and add small files; of two of one name the last stays."""


def open_tracker(kind: str, run: RunIdentity, settings: Mapping[str, Setting]) -> Tracker:
    """The run at the tracker `kind`, one of TRACKERS, which its own variables and files say how to reach.

    Raises MissingPackageError, UsageError where nobody is logged in, TrackerError where it cannot be reached.
    """
    if kind == "mlflow":
        from imagesprint.tracking.mlflow_server import MlflowRun

        return MlflowRun(run, settings)
    if kind == "wandb":
        from imagesprint.tracking.wandb_runs import WandbRun

        return WandbRun(run, settings)
    from imagesprint.tracking.trackio_project import TrackioRun

    return TrackioRun(run, settings)


@contextmanager
def asking(tracker: str, hint: str) -> Iterator[None]:
    """Turn whatever the library of `tracker` raises into a TrackerError: those have no ancestor in common.

    What it prints goes to standard error: standard output is for the result.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except ImagesprintError:
        raise
    except Exception as error:
        raise TrackerError(f"{tracker}: {_said(error)}", hint) from error


def _said(error: BaseException) -> str:
    """The system's own words where it refused something, such as a connection; else the library's, on one line."""
    deepest = error
    while (behind := deepest.__cause__ or deepest.__context__) is not None:
        deepest = behind
    if isinstance(deepest, OSError) and deepest.strerror:
        return deepest.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"
