"""What the control groups that this process lies in allow it, in either version of Linux's cgroups."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")  # cgroups(7): a line a hierarchy, NUMBER:CONTROLLERS:PATH; version 2 names none
_UNLIMITED: Final = 1 << 60  # version 1 says "none" by a number near 2**63


def core_limit(mounts: Path = MOUNTS, own: Path = OWN) -> float | None:
    """How many cores' time the groups allow, which need not be whole; None where they set no limit."""
    limits = []
    for folder in _groups("cpu", mounts, own):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if words and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def memory_limit(mounts: Path = MOUNTS, own: Path = OWN) -> tuple[int, int] | None:
    """The tightest limit of memory and what is left of it, in bytes; None where the groups set no limit.

    Cached files count as left: the kernel drops them where memory is needed.
    """
    limits = []
    for folder in _groups("memory", mounts, own):
        limit, used = (
            _words(folder / new) or _words(folder / old)
            for new, old in (
                ("memory.max", "memory.limit_in_bytes"),
                ("memory.current", "memory.usage_in_bytes"),
            )
        )
        if limit and used and limit != ["max"] and int(limit[0]) < _UNLIMITED:
            limits.append((int(limit[0]), int(limit[0]) - int(used[0]) + _cached(folder)))
    return min(limits, key=lambda limit: limit[1], default=None)


def _groups(controller: str, mounts: Path, own: Path) -> Iterator[Path]:
    """The folders of the groups around this process that `controller` may limit, the innermost first."""
    for line in own.read_text(encoding="utf-8").splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mounts / controllers if (mounts / controllers).is_dir() else mounts / controller
        # Of a container the path may be the host's, which is not to be seen from within; its own group is at the top.
        for inner in (path, *map(str, Path(path).parents)):
            yield top / inner.lstrip("/")


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


def _cached(folder: Path) -> int:
    words = _words(folder / "memory.stat")
    rows = dict(zip(words[::2], words[1::2], strict=False))
    return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
