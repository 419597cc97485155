"""How much other processes use the cores of a measurement meanwhile."""

import os
import time
from pathlib import Path
from typing import Final

from imagesprint.runs.ranks import Ranks

_STAT: Final = Path("/proc/stat")  # proc(5): a line a core, in ticks since the start of the machine
_WORKING: Final = (
    0,
    1,
    2,
    5,
    6,
    7,
)  # user, nice, system, irq, softirq, steal; not idle and iowait. Guests' are in user


class Disturbance:
    """What other processes take of this rank's cores from now on. All ranks make one, and ask for it, together."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._cores = frozenset(os.sched_getaffinity(0))
        self._began, self._busy, self._own = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.monotonic(), busy_seconds(self._cores), time.process_time()

    def share(self) -> float:
        """Return the share (0 to 1) of the cores' time until now, on the rank whose cores others used most."""
        began, busy, own = (
            now - then for now, then in zip(self._now(), (self._began, self._busy, self._own), strict=True)
        )
        ranks = self._ranks
        first = ranks.rank - ranks.local_rank
        all_own = ranks.gather(round(1e6 * own))[first : first + ranks.local_world_size]
        ours = own if ranks.has_own_cores else sum(all_own) / 1e6
        others = max(0.0, busy - ours) / (len(self._cores) * began)
        return min(1.0, max(ranks.gather(round(1e6 * others))) / 1e6)


def busy_seconds(cores: frozenset[int]) -> float:
    """Return for how long `cores` have worked for anybody, together, since the machine was started."""
    ticks = 0
    for line in _STAT.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            counts = rest.split()
            ticks += sum(int(counts[column]) for column in _WORKING)
    return ticks / os.sysconf("SC_CLK_TCK")
