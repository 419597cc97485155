"""The verdict: how long each stage of a training takes, which is the narrowest, and what each would gain.

Loading, copying and stepping go on beside one another, so the slowest of them sets the pace; within a step, and from
one step to the next, one thing follows the other. So all stages are asked the same: how much sooner would the next
step begin if this one took no time?
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.images.decoding import STAGES as DECODER_STAGES
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import Began, MetricsRow, RankSeconds, StageSeconds
from imagesprint.training.metering import PAUSES

# The stages of a training. All other names for where its time goes are parts of theirs: the decoder's clocks divide
# LOADING, those of an eager step `compute` and `reduction` (PARTS of bench_step.py).
LOADING: Final = ("storage", "read", "decode")
WITHIN_STEP: Final = ("compute", "reduction", "straggler")
STAGES: Final = (*LOADING, "copy", *WITHIN_STEP, *PAUSES)
LIMITS: Final = ("data", "copy", "compute", "reduction")  # of a plan, which sees LOADING as one
NOTABLE: Final = 0.02  # of the time; what is below may be noise


@dataclass(frozen=True)
class Figures:
    """Seconds a step of `images` images, on a typical rank, as they were while all went on together.

    `step` is the time from one step to the next, pauses left out. It is made up of what the device stood still for
    (`data_wait` for batches that were not loaded yet, `copy_wait` for those that were not copied), of `straggler`, by
    which rank `straggling_rank` of several came later than the others, of `reduction`, the rest of the time in which
    they waited for one another and for sums on their way, and of the work itself.

    Beside the step: `load`, for which the loader works on a step's batches, `storage_share` of it waiting for records
    that a store had yet to send; of the rest `read_share` on reading and checking records, `jpeg_share` on what libjpeg
    does; `copy`, for which they are copied. Between steps: `checkpoint` and
    `evaluation`; `checkpoint_writing` goes on beside them. `undisturbed`, where it was measured, is what a step takes
    where loading costs nothing: on a CPU, which both share, less than what it takes beside it.
    """

    images: float
    step: float
    load: float
    storage_share: float = 0.0
    read_share: float = 0.0
    jpeg_share: float = 0.0
    copy: float = 0.0
    data_wait: float = 0.0
    copy_wait: float = 0.0
    straggler: float = 0.0
    straggling_rank: int = 0
    reduction: float = 0.0
    checkpoint: float = 0.0
    checkpoint_writing: float = 0.0
    evaluation: float = 0.0
    undisturbed: float | None = None

    @property
    def wall(self) -> float:
        """Return the seconds from one step to the next with all pauses."""
        return self.step + self.checkpoint + self.evaluation

    @property
    def busy(self) -> float:
        """Return the seconds of a step in which the device waited for no data."""
        return max(0.0, self.step - self.data_wait - self.copy_wait)

    @property
    def storage(self) -> float:
        """Return what of `load` is waiting for a store; 0 where the data lie on this machine."""
        return self.load * self.storage_share

    @property
    def own_load(self) -> float:
        """Return the rest of `load`, in which this machine works."""
        return self.load - self.storage

    @property
    def read(self) -> float:
        """Return what of `own_load` is reading and checking records."""
        return self.own_load * self.read_share

    @property
    def decode(self) -> float:
        """Return the rest of `own_load`: decoding, cropping and resizing."""
        return self.own_load * (1 - self.read_share)

    @property
    def compute(self) -> float:
        """Return the seconds that the step itself works."""
        return max(0.0, self.busy - self.straggler - self.reduction)

    def seconds_of(self, stage: str) -> float:
        """Return the seconds a step of one of STAGES."""
        seconds: float = getattr(self, stage)
        return seconds


@dataclass(frozen=True)
class Limit:
    """One of STAGES: the `seconds` that it takes, those `saved` were it free (`compute`: twice as fast), by which share
    the training would be faster then (`gain`: 0.25 for 25%), and the speed that it would allow alone: None where it
    takes no time, and for `storage`, of which only the waiting is known.
    """

    name: str
    seconds: float
    saved: float
    gain: float
    images_per_second: float | None


def find_limits(parts: Sequence[tuple[Figures, float]]) -> list[Limit]:
    """Return STAGES of parts of a training together, each of so many steps, the narrowest first.

    That is the one that would save most, then the one that would save most once the first is free, and so on; where
    nothing notable is to be saved any more, the one that takes longest. Seconds are those of all steps.
    """
    wall = sum(figures.wall * steps for figures, steps in parts)
    images = sum(figures.images * steps for figures, steps in parts)
    seconds = {stage: sum(figures.seconds_of(stage) * steps for figures, steps in parts) for stage in STAGES}
    order: list[str] = []
    for _ in STAGES:
        saved = {stage: _saved(parts, [*order, stage]) - _saved(parts, order) for stage in STAGES if stage not in order}
        notable = {stage: value if value > NOTABLE * wall else 0.0 for stage, value in saved.items()}
        order.append(max(notable, key=lambda stage: (notable[stage], seconds[stage])))
    alone = {stage: _saved(parts, [stage]) for stage in STAGES}
    is_known = {stage: taken > 0 and stage != "storage" for stage, taken in seconds.items()}
    speeds = {stage: images / seconds[stage] if is_known[stage] else None for stage in STAGES}
    return [Limit(stage, seconds[stage], alone[stage], gain(wall, alone[stage]), speeds[stage]) for stage in order]


def _saved(parts: Sequence[tuple[Figures, float]], free: Sequence[str]) -> float:
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
    if figures.undisturbed is not None and figures.own_load > 0:  # waiting disturbs nobody
        freed_work = loading - freed.get("storage", 0.0)
        busy -= max(0.0, figures.busy - figures.undisturbed) * freed_work / figures.own_load
    pauses = figures.wall - figures.step - sum(freed.get(stage, 0.0) for stage in PAUSES)
    saved = figures.wall - max(load, copy, busy, 0.0) - pauses
    return max(0.0, min(sum(freed.values()), saved))


@dataclass(frozen=True)
class Window:
    """So many `steps` as a row of metrics.jsonl tells of them, or a share of one that was measured in parts; `is_first`
    of those that a command began with.
    """

    steps: float
    seconds: float
    images_per_second: float
    data_wait: float
    stages: StageSeconds
    ranks: RankSeconds
    is_first: bool = False


@dataclass(frozen=True)
class PhaseFigures:
    """Phase number `phase` of a recipe: the `figures` of its `steps` as far as they were logged, by `world_size` ranks
    with as many threads of `decoder` each.
    """

    phase: int
    steps: float
    world_size: int
    threads: int
    decoder: str
    figures: Figures


def read_figures(run: RunDirectory) -> list[PhaseFigures]:
    """Return the figures of each phase that the run came to, in order.

    Raises UsageError where nothing was logged, or by a version that did not log its stages; RunError where the run is
    damaged.
    """
    rows = run.metrics()
    if not rows:
        raise UsageError(f"{run.path} holds no logged steps yet", "look again after ten steps")
    begun = {row.step for row in run.commands() if isinstance(row, Began)}
    by_phase: dict[int, list[Window]] = {}
    for before, row in zip([0, *(row.step for row in rows)], rows, strict=False):
        window = _window(row, before, before in begun)
        if window is not None:
            by_phase.setdefault(row.phase, []).append(window)
    if not by_phase:
        raise UsageError(f"{run.path} was logged by a version that noted no stages", "train a few steps with this one")
    return [phase_figures(phase, windows) for phase, windows in by_phase.items()]


def _window(row: MetricsRow, before: int, is_first: bool) -> Window | None:
    if row.stages is None or row.ranks is None:
        return None
    return Window(row.step - before, row.seconds, row.images_per_second, row.data_wait, row.stages, row.ranks, is_first)


def phase_figures(phase: int, windows: Sequence[Window]) -> PhaseFigures:
    """Return the figures of the windows of one phase.

    The first of a command, in which all is done for the first time, does not count where there are others; nor do
    those of another number of ranks than the last.
    """
    world_size = len(windows[-1].ranks.own)
    same = [window for window in windows if len(window.ranks.own) == world_size]
    windows = [window for window in same if not window.is_first] or same
    steps = sum(window.steps for window in windows)
    last = windows[-1].stages
    decoder = "native" if last.resize > 0 else "pillow"  # which counts resizing as jpeg
    return PhaseFigures(phase, steps, world_size, last.threads, decoder, _figures(windows, steps))


def _figures(windows: Sequence[Window], steps: float) -> Figures:
    def total(stage: str) -> float:
        return float(sum(getattr(window.stages, stage) for window in windows)) / steps

    step = sum(window.seconds for window in windows) / steps
    own = [sum(times) / steps for times in zip(*(window.ranks.own for window in windows), strict=True)]
    data_wait = [sum(times) / steps for times in zip(*(window.ranks.data_wait for window in windows), strict=True)]
    last, typical = max(own), statistics.median_low(own)
    stood_still = data_wait[own.index(typical)]
    # On a GPU that is for both, in the proportion in which its host waited for them.
    for_data, for_copies = sum(window.data_wait * window.seconds for window in windows) / steps, total("copy_wait")
    copy_part = for_copies / (for_data + for_copies) if for_copies > 0 else 0.0
    parts = {stage: total(stage) for stage in DECODER_STAGES}
    whole = sum(parts.values()) or 1.0
    return Figures(
        images=sum(window.images_per_second * window.seconds for window in windows) / steps,
        step=step,
        load=total("load"),
        storage_share=min(1.0, max(0.0, total("storage") / total("load"))) if total("load") > 0 else 0.0,
        read_share=(parts["read"] + parts["crc"]) / whole,
        jpeg_share=parts["jpeg"] / whole,
        copy=total("copy"),
        data_wait=stood_still * (1 - copy_part),
        copy_wait=stood_still * copy_part,
        straggler=last - typical,
        straggling_rank=own.index(last),
        reduction=max(0.0, step - last),
        checkpoint=total("checkpoint"),
        checkpoint_writing=total("checkpoint_writing"),
        evaluation=total("evaluation"),
    )
