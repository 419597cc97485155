"""Reads the figures of a run, finished or not, from its metrics.jsonl."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from imagesprint.errors import UsageError
from imagesprint.images.decoding import STAGES as DECODER_STAGES
from imagesprint.measuring.limits.figures import Figures
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import Began, MetricsRow, RankSeconds, StageSeconds


@dataclass(frozen=True)
class Window:
    """So many `steps` as a row of metrics.jsonl tells of them; `is_first` of those that a command began with."""

    steps: int
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
    steps: int
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


def _figures(windows: Sequence[Window], steps: int) -> Figures:
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
