"""All that `doctor` looks at without arguments: this machine and this installation."""

from pathlib import Path

from imagesprint.measuring.doctor.check import Check


def machine_checks(folder: Path, data: Path | None) -> list[Check]:
    """One check a thing, in the order of a day's work; takes a second or two, and a few MB in `folder` for as long.

    `folder` is where a run is to be written, `data` the ROOT that is to be trained on, if it is known. Raises what
    `open_root` does where it cannot be opened.
    """
    return []
