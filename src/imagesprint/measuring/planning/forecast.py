"""A plan as one object: what each phase, evaluations and checkpoints take, and when which accuracy is reached. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagesprint.measuring.reporting.references import Reference
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.training.cadence import Cadence
from imagesprint.training.time_plan import TimePlan, Timetable

_SAME_LENGTH = 0.5  # epochs that two trainings may differ by to count as of one length


def forecast(
    recipe: Recipe,
    schedule: Schedule,
    plan: TimePlan,
    details: Sequence[Mapping[str, Any]],
    checkpoint_bytes: int,
) -> dict[str, Any]:
    """Return what `imagesprint plan --json` prints of the times: a row a phase with its `details`, evaluations,
    checkpoints (all of which are kept, one an epoch), the start-up and total_seconds.
    """
    cadence = Cadence(schedule, recipe.eval_every, None, schedule.total_steps)
    work = Timetable(cadence, 0).whole()
    phases = []
    for phase, steps, seconds, limit, detail in zip(
        recipe.phases, work.steps, plan.steps, plan.limits, details, strict=True
    ):
        row = {"steps": steps, "images": steps * phase.batch_size, "image_size": phase.image_size}
        speed = {"batch_size": phase.batch_size, "images_per_second": phase.batch_size / seconds}
        phases.append({**row, "seconds": steps * seconds, "limited_by": limit, **speed, **detail})
    return {
        "num_train": schedule.num_train,
        "steps": schedule.total_steps,
        "epochs": schedule.epochs_done(schedule.total_steps),
        "start_up_seconds": plan.start_up,
        "phases": phases,
        "evaluations": {"count": work.evaluations, "seconds": work.evaluations * plan.evaluation},
        "checkpoints": {
            "count": work.checkpoints,
            "seconds": work.checkpoints * plan.checkpoint,
            "bytes": checkpoint_bytes,
            "bytes_on_disk": work.checkpoints * checkpoint_bytes,
        },
        "total_seconds": plan.start_up + plan.seconds(work),
    }


def accuracies(recipe: Recipe, schedule: Schedule, plan: TimePlan, reference: Reference) -> list[dict[str, float]]:
    """Return the points of `reference` that this training comes to, each with the `seconds` after which it does.

    Those of whole runs ("ends") count where the training is as long as they were.
    """
    timetable = Timetable(Cadence(schedule, recipe.eval_every, None, schedule.total_steps), 0)
    length = schedule.epochs_done(schedule.total_steps)
    points = []
    for point in reference.points:
        if reference.kind == "curve" and point["epoch"] <= length:
            step = _step_at(schedule, point["epoch"])
        elif reference.kind == "ends" and abs(point["epoch"] - length) <= _SAME_LENGTH:
            step = schedule.total_steps
        else:
            continue
        figures = {key: value for key, value in point.items() if key != "seconds"}  # theirs
        points.append(figures | {"seconds": plan.start_up + plan.seconds(timetable.before(step))})
    return points


def _step_at(schedule: Schedule, epoch: float) -> int:
    """The first number of steps after which `epoch` epochs are done."""
    low, high = 0, schedule.total_steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if schedule.epochs_done(middle) >= epoch else (middle + 1, high)
    return low
