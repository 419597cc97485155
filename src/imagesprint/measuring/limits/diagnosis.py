"""The verdict on a training as `imagesprint doctor` gives it: on a run from its logs, or on what was measured."""

import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagesprint.errors import UsageError
from imagesprint.measuring.doctor.check import Check, ok
from imagesprint.measuring.limits.limit_checks import limit_checks
from imagesprint.measuring.limits.run_figures import PhaseFigures, read_figures
from imagesprint.measuring.limits.setting import cores_here, find_setting
from imagesprint.measuring.limits.verdict import Limit, find_limits
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import Began


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
