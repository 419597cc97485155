"""What all targets have in common: a job as text, and the command that takes it."""

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final

from imagesprint.console import printable
from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.launching.job import Job, absolute, seeded
from imagesprint.launching.templates import Value
from imagesprint.storage.url import Place

REFUSED: Final = "nothing was submitted: change what it names, by flags or in a file that --save writes"
_LOGGED: Final = re.compile(r"[EWI]\d{4} ")  # kubectl's


@dataclass(frozen=True)
class Submitted:
    """The names under which a scheduler knows what it took, and the commands for what may be wanted next."""

    jobs: list[str]
    follow: list[str]
    stop: list[str]
    resume: list[str]


@dataclass(frozen=True)
class Missing:
    """What stands in a file where a value is not known, and the flag that gives it."""

    text: str
    flag: str


class Target(ABC):
    """Where a job is sent. `tool` is the command that takes it, `tool_hint` how to get at one."""

    tool: str
    tool_hint: str

    @abstractmethod
    def check(self, job: Job) -> list[str]:
        """Return what to warn of. Raises UsageError for what cannot go well there."""

    @abstractmethod
    def write(self, job: Job) -> str:
        """Return the job as the file that a person would have written."""

    @abstractmethod
    def missing(self, job: Job) -> list[Missing]:
        """Return what has to be filled in before `job` can be submitted."""

    @abstractmethod
    def submit(self, job: Job, text: str) -> Submitted:
        """Hand `text`, which `write` gave, to the tool. Raises ImagesprintError where that refuses it."""

    def is_in_sight(self, data: Place) -> bool:  # noqa: ARG002 (one target knows better)
        """Return whether this machine can look at `data` as the nodes will see it."""
        return True

    def requests(self, job: Job) -> list[Any]:  # noqa: ARG002 (only one target has some)
        """Return the job as a program would send it, where that is another form than the text."""
        return []

    def header(self, job: Job) -> dict[str, Value]:
        """Return the values of a template's first lines."""
        output = absolute(seeded(job.output, "N") if job.seeds else job.output)
        missing = ", ".join(each.text for each in self.missing(job))
        lines = tuple(map(printable, job.forecast.lines))
        return {
            "recipe": printable(job.source),
            "output": printable(str(output)),
            "forecast": lines,
            "missing": missing or None,
        }

    def check_ready(self, job: Job) -> None:
        """Raise UsageError where the job cannot be submitted: something is to be filled in, or there is no tool."""
        for each in self.missing(job):
            raise UsageError(
                f"{each.text} is still to be filled in", f"give {each.flag}, or edit the file that --save writes"
            )
        if shutil.which(self.tool) is None:
            raise UsageError(f"there is no command {self.tool!r} here to submit with", self.tool_hint)

    def call(self, *words: str, text: str = "", doing: str) -> str:
        """Run the tool, with `text` on its standard input; returns what it prints. Raises ImagesprintError."""
        done = subprocess.run([self.tool, *words], input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImagesprintError(f"{self.tool} refuses {doing}: {_reason(done.stderr)}", REFUSED)
        return done.stdout.strip()


def _reason(said: str) -> str:
    """What a tool said, on one line, without its log: the first and the last lines tell the most."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not _LOGGED.match(line)]
    return " … ".join(lines if len(lines) <= 3 else (lines[0], *lines[-2:])) or "it does not say why"
