"""What can cost a run accuracy, as far as its files, its recipe and its data tell; docs/accuracy.md has the sizes."""

from pathlib import Path

from imagesprint.measuring.doctor.accuracy_data import data_checks
from imagesprint.measuring.doctor.accuracy_recipe import recipe_checks, resolution, schedule_checks
from imagesprint.measuring.doctor.accuracy_results import result_checks
from imagesprint.measuring.doctor.check import Check
from imagesprint.measuring.reporting.run_record import RunRecord, read_run
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root


def accuracy_checks(run: Path, data: Path | None) -> list[Check]:
    """One check an effect, for the run in the directory `run`, which may be under way.

    With `data`, the ROOT that it was trained on, some of its images are looked at. Raises UsageError where there is no
    run, nothing was logged yet, or there is no such ROOT; RecordError where it is damaged.
    """
    record = read_run(run)
    root = open_root(data) if data is not None else None
    schedule = _schedule(record, root)
    return [
        *result_checks(record, schedule),
        *recipe_checks(record.recipe),
        resolution(record.recipe, root),
        *(schedule_checks(record.recipe, schedule, record.last.step) if schedule is not None else ()),
        *(data_checks(record, root) if root is not None else ()),
    ]


def _schedule(record: RunRecord, root: Root | None) -> Schedule | None:
    """The schedule on as many images as the run was trained on; None where neither a checkpoint nor `root` says."""
    num_train = record.checkpoint.get("num_train")
    if num_train is None and root is not None:
        num_train = len(root.dataset(root.nearest(record.recipe.phases[0].source), "train"))
    schedule = None if num_train is None else Schedule(record.recipe, num_train)
    is_of_run = schedule is not None and record.last.step <= schedule.total_steps
    return schedule if is_of_run else None  # `data` is of another size: the checks of it say so
