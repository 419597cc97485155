"""What `doctor` says of one thing that it looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

OK: Final = "ok"
WARNING: Final = "warning"  # it works, but slower or otherwise than it could
FAILURE: Final = "failure"  # something will not work


@dataclass(frozen=True)
class Check:
    """`detail` is what was found, with its value; `hint` what to do, "" where there is nothing to do."""

    name: str
    status: str
    detail: str
    hint: str = ""

    def naming(self, path: object, name: object) -> "Check":
        """The same, said of `name` where it speaks of what lies at `path`, a copy of it on this machine."""
        detail, hint = (text.replace(str(path), str(name)) for text in (self.detail, self.hint))
        return replace(self, detail=detail, hint=hint)


def ok(name: str, detail: str, hint: str = "") -> Check:
    return Check(name, OK, detail, hint)


def warning(name: str, detail: str, hint: str) -> Check:
    return Check(name, WARNING, detail, hint)


def failure(name: str, detail: str, hint: str) -> Check:
    return Check(name, FAILURE, detail, hint)


def has_failed(checks: Sequence[Check]) -> bool:
    """Whether one of `checks` is a failure."""
    return any(check.status == FAILURE for check in checks)
