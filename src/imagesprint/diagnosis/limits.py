"""The verdict as `doctor` gives it, in words: on a run from its logs, or on what was measured."""

import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from imagesprint.diagnosis.advice import Setting, advise, cores_here, find_setting
from imagesprint.diagnosis.check import Check, ok, warning
from imagesprint.diagnosis.verdict import Figures, Limit, PhaseFigures, find_limits, gain, read_figures
from imagesprint.errors import UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import Began

WORTH_SAYING: Final = 0.05  # a gain; what is smaller needs no doing

_SUBJECTS: Final = {
    "read": "reading and checking records feeds",
    "decode": "decoding feeds",
    "copy": "copies to the device bring",
    "compute": "the step itself does",
}


def limit_checks(figures: Figures, limits: Sequence[Limit], setting: Setting) -> list[Check]:
    """Return a check for each of `limits` that takes any time, in their order.

    One that would gain more than WORTH_SAYING is a warning, but for `compute`, whose turn it is to be the narrowest.
    """
    return [_check(figures, limit, setting) for limit in limits if limit.seconds > 0]


def _check(figures: Figures, limit: Limit, setting: Setting) -> Check:
    name = f"phase {setting.phase}: {limit.name}"
    if limit.gain < WORTH_SAYING:
        return ok(name, _detail(figures, limit))
    advice = advise(limit.name, figures, setting)
    hint = "; or ".join(_with_gain(figures, each.what, each.saved) for each in advice)
    if limit.name == "compute":
        return ok(name, f"{_detail(figures, limit)}; at twice the speed it would be {limit.gain:+.0%}", hint)
    return warning(name, f"{_detail(figures, limit)}; were it free it would be {limit.gain:+.0%}", hint)


def _with_gain(figures: Figures, what: str, saved: float | None) -> str:
    return what if saved is None else f"{what}: {gain(figures.wall, saved):+.0%}"


def _detail(figures: Figures, limit: Limit) -> str:
    overall = f"training does {figures.images / figures.wall:,.0f}"
    if limit.name in _SUBJECTS:
        return f"{_SUBJECTS[limit.name]} {figures.images / limit.seconds:,.0f} images/s, {overall}"
    share = f"{limit.seconds / figures.wall:.0%} of the time ({1e3 * limit.seconds:,.1f} ms a step)"
    if limit.name == "straggler":
        return f"the others wait {share} for rank {figures.straggling_rank}"
    if limit.name == "reduction":
        return f"ranks wait {share} for sums on their way and for one another"
    if limit.name == "checkpoint":
        writing = f"; writing goes on beside it for {1e3 * figures.checkpoint_writing:,.1f} ms a step"
        return f"training stands still {share} for checkpoints{writing}"
    return f"training stands still {share} for evaluations"


def diagnose_run(path: Path, data: Path | None) -> dict[str, Any]:
    """Return what `doctor RUN --json` prints of the limits of the run at `path`, finished or not, trained on `data`.

    Raises UsageError where there is no run, or no such ROOT.
    """
    run, root = RunDirectory(path), None if data is None else open_root(data)
    recipe = run.recipe()
    if recipe is None:
        raise UsageError(f"{path} holds no run", "name the --output of an imagesprint train")
    try:
        phases = read_figures(run)
    except UsageError as error:
        return {"checks": [ok("stages", error.what, error.hint)], "bottleneck": None, "phases": []}
    hosts = [row.host for row in run.commands() if isinstance(row, Began)]
    is_here = hosts[-1:] == [socket.gethostname()]
    return diagnose(phases, recipe, root, cores_here() if is_here else 0)


def diagnose(phases: Sequence[PhaseFigures], recipe: Recipe, root: Root | None, cores: int) -> dict[str, Any]:
    """Return the object of `doctor --json`: `checks`, the `bottleneck` of all `phases` together, and for each of them
    its figures and limits, the narrowest first.
    """
    checks: list[Check] = []
    described = []
    for each in phases:
        limits = find_limits([(each.figures, 1)])
        setting = find_setting(each, recipe.phases[each.phase], root, cores)
        checks += limit_checks(each.figures, limits, setting)
        described.append(_described(each, limits))
    overall = find_limits([(each.figures, each.steps) for each in phases])
    return {"checks": checks, "bottleneck": overall[0].name, "phases": described}


def _described(each: PhaseFigures, limits: Sequence[Limit]) -> dict[str, Any]:
    figures = each.figures
    return {
        "phase": each.phase,
        "steps": each.steps,
        "world_size": each.world_size,
        "threads": each.threads,
        "decoder": each.decoder,
        "images_per_second": figures.images / figures.wall,
        "figures": asdict(figures),
        "limits": [
            asdict(limit) | {"images_per_second": figures.images / limit.seconds if limit.seconds > 0 else None}
            for limit in limits
        ],
    }
