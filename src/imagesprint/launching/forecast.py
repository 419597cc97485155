"""What a job's header says of its time, cost and disk, and the time limit that follows."""

import math
from dataclasses import replace
from typing import Final

from imagesprint.console import duration, size
from imagesprint.launching.job import Forecast, Job, unknown
from imagesprint.records.dataset import Root
from imagesprint.storage.url import Place, Url

_MARGIN: Final = 1.5  # times what is planned: published speeds are those of well-kept machines
_START: Final = 1800  # seconds beside it: start-up, evaluations and checkpoints, of which published speeds say nothing


def foresee(job: Job, root: Root | None, gpu: str | None, price: float | None) -> Forecast:
    """Return what is known of `job` on GPUs of the name `gpu`, by published speeds, at `price` an hour.

    `root` is None where ROOT cannot be read from here. Raises UsageError for a GPU of which no speed is known.
    """
    found = _foresee_time(job, None if root is None else root.path, gpu, price)
    if not isinstance(job.data, Url):
        return replace(found, kept_bytes=0)
    if root is None:
        return replace(found, lines=(*found.lines, "disk: not known; each node keeps what it reads of ROOT."))
    from imagesprint.diagnosis.storage_plan import find_splits  # imports torch

    kept = sum(split.num_bytes for split in find_splits(root, job.recipe, is_here=False)[0])
    return replace(found, lines=(*found.lines, f"disk: {size(kept)} of each node, for ROOT"), kept_bytes=kept)


def _foresee_time(job: Job, data: Place | None, gpu: str | None, price: float | None) -> Forecast:
    if not job.on_gpus:
        return unknown("as speeds of CPUs are not published: `imagesprint plan` measures them on one of the nodes")
    if gpu is None:
        return unknown("as no GPU is named: --gpu h200 plans by speeds that were published for it")
    if job.recipe.features_once:
        return unknown("as nearly all of it goes to making features, of which no speed is published")
    from imagesprint.diagnosis.planning import plan_elsewhere  # imports torch
    from imagesprint.report.run_record import published_reference

    if data is None and published_reference(job.recipe.name) is None:
        return unknown("as --data cannot be read from here, and so the number of images")
    gpus = job.nodes * job.ranks
    plan = plan_elsewhere(job.recipe, None, data, job.output, gpu.lower(), gpus)
    minutes = math.ceil((_MARGIN * plan.total_seconds + _START) / 60)
    took = f"{duration(plan.total_seconds)} on {gpus} × {gpu}"
    lines = [
        f"time: at best {took}, for {plan.epochs:g} epochs of {plan.num_train:,} images, without",
        f"  {', '.join(plan.not_included)}. By published speeds:",
        *(f"  {source}" for source in dict.fromkeys(row.source for row in plan.phases)),
    ]
    if price is not None:
        cost = price * plan.total_seconds / 3600
        lines.append(f"cost: {cost:,.2f} at {price:,.2f} an hour of all nodes, in the currency that --price is in")
    lines.append(f"time limit: {minutes} minutes, {_MARGIN:g} times that and {_START // 60} minutes more")
    return Forecast(tuple(lines), minutes)
