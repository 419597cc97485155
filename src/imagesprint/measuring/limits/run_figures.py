"""Reads the figures of a run, finished or not, from its metrics.jsonl."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from imagesprint.errors import UsageError
from imagesprint.files import read_rows
from imagesprint.images.decoding import STAGES as DECODER_STAGES
from imagesprint.measuring.limits.figures import Figures
from imagesprint.runs.directory import RunDirectory

Row = dict[str, Any]


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

    Raises UsageError where nothing was logged, or by a version that did not log its stages.
    """
    rows = read_rows(run.metrics_file)
    if not rows:
        raise UsageError(f"{run.path} holds no logged steps yet", "look again after ten steps")
    begun = {row["step"] for row in read_rows(run.commands_file) if "began" in row}
    windows = [
        row | {"steps": row["step"] - before["step"], "is_first": before["step"] in begun}
        for before, row in pairwise([{"step": 0}, *rows])
    ]
    by_phase = {phase: [row for row in group if "stages" in row] for phase, group in groupby(windows, _phase)}
    found = [phase_figures(phase, group) for phase, group in by_phase.items() if group]
    if not found:
        raise UsageError(f"{run.path} was logged by a version that noted no stages", "train a few steps with this one")
    return found


def _phase(row: Row) -> int:
    phase: int = row["phase"]
    return phase


def phase_figures(phase: int, rows: Sequence[Row]) -> PhaseFigures:
    """Return the figures of rows of metrics of one phase, to which the number of `steps` and `is_first` were added.

    The first row of a command, in which all is done for the first time, does not count where there are others; nor do
    rows of another number of ranks than the last.
    """
    world_size = len(rows[-1]["ranks"]["own"])
    same = [row for row in rows if len(row["ranks"]["own"]) == world_size]
    rows = [row for row in same if not row["is_first"]] or same
    steps = sum(row["steps"] for row in rows)
    last = rows[-1]["stages"]
    decoder = "native" if last["resize"] > 0 else "pillow"  # which counts resizing as jpeg
    return PhaseFigures(phase, steps, world_size, last["threads"], decoder, _figures(rows, steps))


def _figures(rows: Sequence[Row], steps: int) -> Figures:
    def total(key: str) -> float:
        return float(sum(row["stages"].get(key, 0.0) for row in rows)) / steps

    step = sum(row["seconds"] for row in rows) / steps
    own = [sum(times) / steps for times in zip(*(row["ranks"]["own"] for row in rows), strict=True)]
    data_wait = [sum(times) / steps for times in zip(*(row["ranks"]["data_wait"] for row in rows), strict=True)]
    last, typical = max(own), statistics.median_low(own)
    stood_still = data_wait[own.index(typical)]
    # On a GPU that is for both, in the proportion in which its host waited for them.
    for_data, for_copies = sum(row["data_wait"] * row["seconds"] for row in rows) / steps, total("copy_wait")
    copy_part = for_copies / (for_data + for_copies) if for_copies > 0 else 0.0
    parts = {stage: total(stage) for stage in DECODER_STAGES}
    whole = sum(parts.values()) or 1.0
    return Figures(
        images=sum(row["images_per_second"] * row["seconds"] for row in rows) / steps,
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
