"""What can cost a run accuracy, as far as the run, its data and its recipe tell; docs/accuracy.md has the sizes."""

from pathlib import Path

from imagesprint.measuring.doctor.check import Check
from imagesprint.measuring.reporting.run_record import read_run


def accuracy_checks(run: Path, root: Path | None) -> list[Check]:
    """One check an effect that applies to the run in the directory `run`; with `root`, also those of its images.

    The run may be under way. Raises UsageError where there is no run or nothing was logged yet, or no data at `root`.
    """
    read_run(run)
    return []
