"""The error hierarchy. Every failure a user can meet is one of these; anything else is a bug.

ImagesprintError            exit 1   something failed
├── UsageError              exit 2   wrong flag, path or configuration: known before any work starts
│   ├── RecipeError                  a recipe, an override or a .toml file that makes no sense
│   ├── RankError                    a world size that does not fit the recipe, a broken rank environment
│   └── MissingPackageError          what an extra installs is not there
├── DataError               exit 1   what was found in the data
│   ├── ImageError                   bytes that are no image, or a damaged one
│   └── RecordError                  a damaged or missing record, shard, index or dataset.json
├── FileError               exit 1   a file that the system does not let us read or write; an OSError, too
├── StorageError            exit 1   a store (S3, HDFS, …) that refuses, fails or does not answer
│   ├── HeldError                    another process works at that place
│   └── LostLeaseError               another process has taken that place over from this one
├── ServerError             exit 1   a server of ours that fails, does not answer, or is none
├── TrackerError            exit 1   a tracker (MLflow, W&B, …) that refuses, fails or does not answer
├── RunError                exit 1   the run directory, a resume, a loss that is not finite
│   ├── CheckpointError              a checkpoint or weight file that cannot be used
│   ├── LostRankError                another rank is gone (exit 75, which --processes turns into 1)
│   ├── HungRankError                another rank does not answer
│   └── StoppedError        exit 143 a signal asked for the end: all is saved
│       └── CtrlCError      exit 130 and that signal was SIGINT
└── CheckError              exit 3   a check or target was not met
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

FILE_HINT: Final = "see to its disk, space and permissions, then give the same command again"


class ImagesprintError(Exception):
    """A failure with what happened, the offending value in it, and a hint that helps.

    `what` and `hint` are one sentence each; `exit_code` is what the command line exits with.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[type["ImagesprintError"], tuple[str, str]]:
        # Errors cross process borders (prepare's workers): keep the hint when pickled.
        return type(self), (self.what, self.hint)


class UsageError(ImagesprintError):
    exit_code = 2


class RecipeError(UsageError):
    pass


class RankError(UsageError):
    pass


class MissingPackageError(UsageError):
    pass


class DataError(ImagesprintError):
    pass


class ImageError(DataError):
    pass


class RecordError(DataError):
    pass


class FileError(ImagesprintError, OSError):
    """What the operating system refused, with the operation and the path, which Python leaves out for open files.

    It stays an OSError, with `errno`, `strerror` and `filename`, for those who can do without that file.
    """

    def __str__(self) -> str:
        return self.what

    @classmethod
    def of(cls, operation: str, path: object, error: OSError, hint: str = "") -> "FileError":
        """Return the error that `operation`, a verb, cannot be done to `path`, because of `error`."""
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        found = cls(f"cannot {operation} {path}: {reason}", hint or FILE_HINT)
        found.errno, found.strerror, found.filename = error.errno, reason, str(path)
        return found


class StorageError(ImagesprintError):
    pass


class HeldError(StorageError):
    pass


class LostLeaseError(StorageError):
    pass


class ServerError(ImagesprintError):
    pass


class TrackerError(ImagesprintError):
    pass


class RunError(ImagesprintError):
    pass


class CheckpointError(RunError):
    pass


class LostRankError(RunError):
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: tells the launcher to look for the rank that failed by itself


class HungRankError(RunError):
    pass


class StoppedError(RunError):
    exit_code = 143


class CtrlCError(StoppedError):
    exit_code = 130


class CheckError(ImagesprintError):
    exit_code = 3


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Import inside of `with` what only `extra`, one of pyproject.toml, installs. Raises MissingPackageError."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"a package that this needs cannot be imported: {error}", f"pip install 'imagesprint[{extra}]'"
        ) from error
