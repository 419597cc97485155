"""The verdict: which stage of a training is the narrowest, and what each would gain. Pure.

Loading, copying and stepping go on beside one another, so the slowest of them sets the pace; within a step, and from
one step to the next, one thing follows the other. So all stages are asked the same: how much sooner would the next
step begin if this one took no time?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagesprint.measuring.limits.figures import LOADING, PAUSES, STAGES, WITHIN_STEP, Figures

NOTABLE: Final = 0.02  # of the time; what is below may be noise


@dataclass(frozen=True)
class Limit:
    """One of STAGES: the `seconds` that it takes, those `saved` were it free (`compute`: twice as fast), and by which
    share the training would be faster then (`gain`: 0.25 for 25%).
    """

    name: str
    seconds: float
    saved: float
    gain: float


def find_limits(parts: Sequence[tuple[Figures, int]]) -> list[Limit]:
    """Return STAGES of parts of a training together, each of so many steps, the narrowest first.

    That is the one that would save most, then the one that would save most once the first is free, and so on; where
    nothing notable is to be saved any more, the one that takes longest. Seconds are those of all steps.
    """
    wall = sum(figures.wall * steps for figures, steps in parts)
    seconds = {stage: sum(figures.seconds_of(stage) * steps for figures, steps in parts) for stage in STAGES}
    order: list[str] = []
    for _ in STAGES:
        saved = {stage: _saved(parts, [*order, stage]) - _saved(parts, order) for stage in STAGES if stage not in order}
        notable = {stage: value if value > NOTABLE * wall else 0.0 for stage, value in saved.items()}
        order.append(max(notable, key=lambda stage: (notable[stage], seconds[stage])))
    alone = {stage: _saved(parts, [stage]) for stage in STAGES}
    return [Limit(stage, seconds[stage], alone[stage], gain(wall, alone[stage])) for stage in order]


def _saved(parts: Sequence[tuple[Figures, int]], free: Sequence[str]) -> float:
    return sum(
        saved_by(figures, {stage: _removable(figures, stage) for stage in free}) * steps for figures, steps in parts
    )


def _removable(figures: Figures, stage: str) -> float:
    seconds = figures.seconds_of(stage)
    return seconds / 2 if stage == "compute" else seconds


def gain(wall: float, saved: float) -> float:
    """Return by which share a training is faster that takes `saved` of its `wall` seconds less."""
    return wall / max(wall - saved, 1e-9) - 1


def saved_by(figures: Figures, freed: Mapping[str, float]) -> float:
    """Return by how many seconds a step the training is shorter where stages take as many seconds less as `freed` says.

    That is never more than they sum up to.
    """
    loading = sum(freed.get(stage, 0.0) for stage in LOADING)
    load = min(figures.load, figures.step) - loading
    copy = min(figures.copy, figures.step) - freed.get("copy", 0.0)
    busy = figures.busy - sum(freed.get(stage, 0.0) for stage in WITHIN_STEP)
    if figures.undisturbed is not None and figures.load > 0:
        busy -= max(0.0, figures.busy - figures.undisturbed) * loading / figures.load
    pauses = figures.wall - figures.step - sum(freed.get(stage, 0.0) for stage in PAUSES)
    saved = figures.wall - max(load, copy, busy, 0.0) - pauses
    return max(0.0, min(sum(freed.values()), saved))
