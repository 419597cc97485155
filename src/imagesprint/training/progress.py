"""What a person sees of a training: the lines before it and the living line while it runs."""

from imagesprint.console import Console, duration
from imagesprint.errors import RecipeError
from imagesprint.recipes.library import builtin_names, differences, load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs import sagemaker, slurm
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import MetricsRow, PlanComparison
from imagesprint.training.time_plan import TimeKeeper


def show_recipe(console: Console, recipe: Recipe, schedule: Schedule, world_size: int) -> None:
    """The recipe, what differs from the built-in one of its name, and its arithmetic on this data."""
    console.line(f"recipe      {recipe.name}: {recipe.model}, {recipe.precision}, seed {recipe.seed}")
    for change in _changes(recipe):
        console.line(f"            changed: {change}")
    for index, (phase, (start, end)) in enumerate(zip(recipe.phases, schedule.bounds, strict=True)):
        console.line(
            f"phase {index}     steps {start}..{end}, {phase.image_size} px from {phase.source}, "
            f"batch {phase.batch_size} = {_micro_batches(phase, world_size)}, "
            f"lr {phase.lr[0]:g} → {phase.lr[1]:g} {phase.method}"
            f"{'' if phase.freeze == 'none' else f', {phase.freeze} frozen'}"
        )
    images = schedule.images_before(schedule.total_steps)
    console.line(
        f"in all      {schedule.total_steps} steps, {schedule.epochs_done(schedule.total_steps):g} epochs, "
        f"{images:,} images of {schedule.num_train:,} different ones"
    )
    if recipe.patience:
        console.line(f"            or fewer: {recipe.patience} evaluations without a better top-1 end it")


def _micro_batches(phase: Phase, world_size: int) -> str:
    if not phase.micro_batch:
        return "micro-batches as they fit into memory (auto)"
    share = phase.micro_batches // world_size
    plural = "es" if share != 1 else ""
    return f"{phase.micro_batches} × {phase.micro_batch} ({share} micro-batch{plural} a rank)"


def show_compiling(console: Console, shapes: int, seconds: float) -> None:
    """How long it took to compile the step for as many shapes; nothing where there was none to compile."""
    if shapes:
        console.line(f"compile     {shapes} shape{'s' if shapes > 1 else ''} in {seconds:.0f} s")


def show_ranks(console: Console, ranks: Ranks) -> None:
    """Who started the ranks, where that is more than a shell; device and ranks; a warning where some stand by."""
    job = slurm.describe_job() or sagemaker.describe_job()
    if job:
        console.line(f"job         {job}")
    plural = "s" if ranks.world_size > 1 else ""
    console.line(f"device      {ranks.device_name}, {ranks.world_size} rank{plural}, {ranks.threads} CPU threads each")
    if ranks.standing_by:
        started = ranks.world_size + ranks.standing_by
        console.warn(
            f"{ranks.standing_by} of {started} ranks stand by: {started} cannot share the recipe's micro-batches "
            f"evenly, {ranks.world_size} can"
        )


def show_plan(console: Console, keeper: TimeKeeper) -> None:
    """How long the command is planned to take, what limits each phase, and whose speeds these are."""
    plan = keeper.plan
    if plan is None:
        console.line("plan        not known: `imagesprint plan` measures it; the first steps will give an estimate")
        return
    limits = plan.limits if len(set(plan.limits)) > 1 else plan.limits[:1]
    by = f"; its phases are limited by {', '.join(limits)}" if limits else ""
    console.line(f"plan        {duration(keeper.planned())} in all{by}")
    console.line(f"            {plan.origin}")


def show_comparison(console: Console, comparison: PlanComparison | None) -> None:
    """What the command took beside what was planned, part by part; nothing where nothing was."""
    if comparison is None:
        return
    console.line(f"{'time':<12}{'planned':>10}{'took':>10}")
    for part in comparison.parts:
        console.line(f"  {part.part:<12}{part.planned_seconds:>8.1f} s{part.seconds:>8.1f} s")
    planned, seconds = comparison.planned_seconds, comparison.seconds
    console.line(f"  {'in all':<12}{planned:>8.1f} s{seconds:>8.1f} s  {100 * (planned / seconds - 1):+.1f}% planned")
    console.line(f"  {comparison.origin}")


def show_exceptions(console: Console, fallbacks: int, bad_records: int) -> None:
    """How many images were not decoded natively in this command, and were not sound so far; nothing where none."""
    if fallbacks:
        console.line(f"decoder     {fallbacks:,} images were of a kind that is left to Pillow")
    if bad_records:
        console.warn(
            f"{bad_records:,} times so far in this run a record was bad and another stood in; `imagesprint verify DATA "
            "--decode` lists the bad ones"
        )


def _changes(recipe: Recipe) -> list[str]:
    if recipe.name not in builtin_names():
        return []
    try:
        named = load_recipe(recipe.name)
    except RecipeError:
        return []
    # precision auto is settled by the machine, not changed by the user.
    return [
        f"{change.key} = {change.b!r} (was {change.a!r})"
        for change in differences(named, recipe)
        if not (change.key == "precision" and change.a == "auto")
    ]


class ProgressLine:
    """One living line: step, loss, time to go until the command's end, accuracy, and what else has room."""

    def __init__(self, console: Console, schedule: Schedule, keeper: TimeKeeper) -> None:
        self._console, self._schedule, self._time = console, schedule, keeper
        self._last_row: MetricsRow | None = None

    def update(self, step: int, row: MetricsRow | None) -> None:
        """Show that `step` steps are done; `row` is the newest row of metrics, if there is a new one."""
        self._last_row = row or self._last_row
        seconds = self._time.left(step)
        if self._last_row is None or seconds is None:
            return
        shown, left = self._last_row, duration(seconds)
        self._console.live(
            f"step {step}/{self._schedule.total_steps}  loss {shown.loss:.4f}  ETA {left}",
            f"top-1 {shown.top1:.1f}%",
            f"{shown.images_per_second:,.0f} images/s",
            f"data wait {shown.data_wait:.0%}",
            f"epoch {self._schedule.epochs_done(step):.2f}",
            f"lr {shown.lr:.4g}",
            f"{shown.image_size} px",
            f"phase {shown.phase}",
            short=f"step {step}  loss {shown.loss:.4g}  ETA {left}",
        )
