"""`train`: from a recipe and prepared data to a run directory with checkpoints, logs and a result."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from imagesprint.checkpoints.naming import newest_whole, set_aside
from imagesprint.checkpoints.retention import KEEP_ALL, Retention
from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.console import Console
from imagesprint.evaluating.evaluation import Accuracy, evaluate, evaluation_set
from imagesprint.images.decoders import chosen_decoder, decoder_name, describe_decoder
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.validation import check_world_size, largest_world_size
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.directory import RunDirectory, check_run, create_run, resolve_precision
from imagesprint.runs.environment import StopSignals
from imagesprint.runs.logs import failure_log, remarks, run_log
from imagesprint.runs.meeting import RANK_TIMEOUT
from imagesprint.runs.mirror import RunCopy, run_copy
from imagesprint.runs.ranks import Ranks, StopVote, open_ranks
from imagesprint.runs.rows import RunResult
from imagesprint.storage.url import Place
from imagesprint.training.features import feature_batches, make_features
from imagesprint.training.metering import BadRecords, Cadence, Meter, StageTimes
from imagesprint.training.micro_batch_size import settle_micro_batches, with_stored_sizes
from imagesprint.training.optimizer import best_precision, l2_loss
from imagesprint.training.prefetch import on_device
from imagesprint.training.progress import show_comparison, show_plan, show_ranks, show_recipe
from imagesprint.training.recalibration import recalibrate_by_what_follows
from imagesprint.training.recorder import Recorder
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep, wants_compiled
from imagesprint.training.time_plan import Planner, TimeKeeper, TimePlan, step_work


@dataclass(frozen=True)
class TrainingOptions:
    """What does not change a result: where, on what, and how often it is saved."""

    device: str = "auto"
    resume: str = "auto"
    checkpoint_every: int | None = None  # steps; None: every epoch
    stop_after: int | None = None  # steps; None: the whole recipe
    keep: Retention = KEEP_ALL
    rank_timeout: float = RANK_TIMEOUT  # seconds after which a rank that keeps the others waiting ends the run
    compile: str = "auto"  # auto: on a GPU


def train(
    recipe: Recipe,
    data: Place,
    output: Place,
    options: TrainingOptions,
    console: Console,
    planner: Planner | None = None,
    elapsed: float = 0.0,
) -> dict[str, Any]:
    """Train `recipe` on the root `data` into the run directory `output`, or go on where it stopped.

    Where `output` is a URL, its files are there when this returns (`runs.mirror.run_copy`).

    Returns, on every rank, what `train --json` prints: steps, epochs, images_per_second, wall_seconds, compile_seconds
    (on top of the former), bad_records, overflows, interruptions, top1, top5, mean_class_accuracy, loss and checkpoint,
    of the whole run; accuracies and loss are None where the last step was not evaluated; ended_early says whether
    patience ended it. On a rank that stood by it is empty. `plan` compares this command's time with what `planner`,
    asked on rank 0 alone, said of it (`TimeKeeper.comparison`); `elapsed` are the seconds that the command took before
    this call. Raises the errors of errors.py; what was written before stays usable. SIGINT, SIGTERM, SIGUSR1 and SIGHUP
    end it with a StoppedError, after a checkpoint.
    """
    began = time.monotonic() - elapsed
    with run_copy(output, console) as copy:
        result = _train(recipe, data, output, copy, options, console, planner, began)
    # With the checkpoint's path from here: a run directory may be moved, so it holds relative ones.
    return {} if result is None else asdict(result) | {"checkpoint": str(output / result.checkpoint)}


def _train(
    recipe: Recipe,
    data: Place,
    output: Place,
    copy: RunCopy,
    options: TrainingOptions,
    console: Console,
    planner: Planner | None,
    began: float,
) -> RunResult | None:
    """As `train`, in the folder of `copy`; None on a rank that stood by."""
    root, run = open_root(data), RunDirectory(copy.path)

    def fitting(started: int) -> int:
        return largest_world_size(with_stored_sizes(recipe, run.recipe()), started)

    with open_ranks(options.device, options.rank_timeout, fitting) as ranks:
        if ranks.stands_by:
            ranks.stand_by()
            return None
        check_world_size(recipe, ranks.world_size)
        console = console if ranks.is_main else Console.silent()
        copy.share(ranks)
        recipe = resolve_precision(recipe, run, best_precision(ranks.device))
        recipe = settle_micro_batches(recipe, run.recipe(), root.classes, ranks, console)
        if ranks.is_main:
            check_run(run.path, recipe, options.resume)
        ranks.barrier()  # from here on every rank reads what rank 0 has checked
        result = run.result() if run.recipe_file.exists() else None
        if result is not None:
            console.line(f"{output} is finished: {result.steps} steps, nothing to do")
        else:
            known: tuple[TimePlan | None, list[str]] = None, []
            if planner is not None and ranks.is_main:
                known = planner(recipe, root, ranks, wants_compiled(options.compile, ranks.device))
            result = _go_on(recipe, root, copy, options, ranks, console, *known, began)
    return result


def _go_on(
    recipe: Recipe,
    root: Root,
    copy: RunCopy,
    options: TrainingOptions,
    ranks: Ranks,
    console: Console,
    plan: TimePlan | None,
    of_stores: list[str],
    began: float,
) -> RunResult:
    """Do this command's share of the run, which began at `began` by time.monotonic()."""
    run = RunDirectory(copy.path)
    dataset = root.dataset(root.nearest(recipe.phases[0].source), "train")
    schedule = Schedule(recipe, len(dataset))
    until = min(options.stop_after or schedule.total_steps, schedule.total_steps)
    cadence = Cadence(schedule, recipe.eval_every, options.checkpoint_every, until, recipe.patience)
    class_counts = torch.from_numpy(dataset.class_counts)
    state = TrainingState(recipe, root.classes, ranks.device, root.class_texts, class_counts=class_counts)
    judged = TrainedModel(build_model(recipe, len(root.classes)), recipe, root.classes, schedule.num_train)
    judged = judged.to(ranks.device)
    validation, fingerprint, since = evaluation_set(root, judged), _fingerprint(recipe, root), time.monotonic()
    validation.fill()

    def judge() -> Accuracy:
        judged.network.load_state_dict(state.evaluated_weights())
        return evaluate(judged, validation, ranks)

    with ExitStack() as stack:
        if ranks.is_main:
            stack.enter_context(copy.lock())
            create_run(run, recipe)
            stack.enter_context(run_log(run.log_file, console))
        stack.enter_context(failure_log(run.log_file, ranks.rank))
        show_recipe(console, recipe, schedule, ranks.world_size)
        show_ranks(console, ranks)
        if state.not_fused:
            console.warn(f"torch's kernels train, not ours, which are to be faster: {state.not_fused}")
        console.line(f"decoder     {describe_decoder()}")
        _start_or_resume(state, run, fingerprint, ranks, console)
        content = partial(state.checkpoint, schedule.num_train, fingerprint, decoder_name())
        for line in of_stores:
            console.line(line)
        keeper = TimeKeeper(step_work(recipe, len(root.classes)), cadence, state.step, plan, began)
        recorder = Recorder(copy, state, cadence, keeper, ranks, console, content, since)
        with recorder.history(root.path):
            _work(root, state, judged, cadence, options, ranks, recorder, judge)
            result = recorder.result()
            show_comparison(console, result.plan)
    return result


def _feed(
    root: Root, state: TrainingState, judged: TrainedModel, ranks: Ranks, recorder: Recorder
) -> Callable[[Loader], Iterator[Batch]]:
    """What makes the loop's batches of its loader: with features once these are made here, by way of `judged`.

    A signal ends the command meanwhile: there is nothing to save yet.
    """
    recipe = state.recipe
    if not recipe.features_once:
        return iter
    judged.network.load_state_dict(state.network.state_dict())
    dataset = root.dataset(root.nearest(recipe.phases[0].source), "train")
    features, fallbacks = make_features(judged, dataset, ranks, recorder.console)
    recorder.fallbacks(ranks.total(fallbacks))
    return partial(feature_batches, features=features)


def _work(
    root: Root,
    state: TrainingState,
    judged: TrainedModel,
    cadence: Cadence,
    options: TrainingOptions,
    ranks: Ranks,
    recorder: Recorder,
    judge: Callable[[], Accuracy],
) -> None:
    """Do what is left for this command: an evaluation to be made up for, steps, what follows the last of them."""
    missing = recorder.evaluation_is_missing()
    if not (missing or recorder.goes_on() or recorder.is_to_recalibrate()):
        return
    feed = _feed(root, state, judged, ranks, recorder) if recorder.goes_on() else iter
    with StopSignals() as signals, recorder.files(options.keep):
        if missing:
            recorder.evaluate(judge)
        if recorder.goes_on():
            _loop(root, state, cadence, options, ranks, signals, recorder, judge, feed)
        if recorder.is_to_recalibrate():
            _recalibrate(root, state, cadence.schedule, ranks, recorder)
            recorder.save()
            recorder.evaluate(judge)


def _loop(
    root: Root,
    state: TrainingState,
    cadence: Cadence,
    options: TrainingOptions,
    ranks: Ranks,
    signals: StopSignals,
    recorder: Recorder,
    judge: Callable[[], Accuracy],
    feed: Callable[[Loader], Iterator[Batch]],
) -> None:
    """Train to the end of this command. Raises StoppedError after the step in which a signal came."""
    schedule, device = cadence.schedule, ranks.device
    show_plan(recorder.console, recorder.time)
    with Loader(
        root, state.recipe, ranks.rank, ranks.world_size, state.step,
        threads=ranks.threads, end_step=cadence.until, pin=device.type == "cuda",
    ) as loader:  # fmt: skip
        for note in loader.notes:
            recorder.console.warn(note)
        step = TrainingStep(state, ranks, wants_compiled(options.compile, device))
        recorder.compiled(*_compile(step, state, cadence, ranks))
        batches, vote = on_device(feed(loader), device), StopVote(ranks, signals)
        stages = StageTimes(loader, batches, step, ranks)
        meter = Meter(state.recipe, schedule, loader, ranks, stages)
        bad_records = BadRecords(loader, ranks, recorder.console)
        recorder.time.begin()
        while recorder.goes_on():
            phase, lr = schedule.phase(state.step), schedule.lr(state.step)
            meter.add(step(batches, phase, lr), state.sums.gradients)
            with step.rank_waits:
                stop = vote()
            if cadence.log(state.step) or stop:
                recorder.row(meter.row(state.step, l2_loss(state.optimizer)), bad_records.count())
                for notice in loader.take_notices():
                    recorder.console.warn(notice)
            recorder.progress()
            last = recorder.awaits_statistics()
            saving = stop or (cadence.checkpoint(state.step) and not last)
            judging = cadence.evaluate(state.step) and not (stop or last)
            if saving:  # before the evaluation, which can be made up for
                with stages.pause("checkpoint"):
                    recorder.save()
            if judging:
                with stages.pause("evaluation"):
                    recorder.evaluate(judge)
            if stop:
                raise recorder.stopped(stop)
            if saving or judging:
                meter.start_window()
        ranks.watch.heed(None)  # the others wait for what rank 0 has still to write
    recorder.fallbacks(ranks.total(loader.fallbacks))


def _recalibrate(root: Root, state: TrainingState, schedule: Schedule, ranks: Ranks, recorder: Recorder) -> None:
    """Measure batch norm's statistics anew, and say so."""
    began = time.monotonic()
    recorder.fallbacks(recalibrate_by_what_follows(root, state, schedule, ranks))
    recorder.console.line(
        f"batch norm  measured anew by {state.recipe.recalibrate_bn} steps' images in {time.monotonic() - began:.1f} s"
    )


def _compile(step: TrainingStep, state: TrainingState, cadence: Cadence, ranks: Ranks) -> tuple[int, float]:
    """Get `step` ready for all that lies ahead; returns how many shapes were compiled, and the seconds it took."""
    began = time.monotonic()
    bounds = zip(state.recipe.phases, cadence.schedule.bounds, strict=True)
    ahead = [phase for phase, (start, end) in bounds if start < cadence.until and end > state.step]
    shapes = max(ranks.gather(step.prepare(ahead)))  # waits for the slowest rank
    return shapes, time.monotonic() - began


def _start_or_resume(state: TrainingState, run: RunDirectory, data: str, ranks: Ranks, console: Console) -> None:
    """Bring `state` to where the run stands; `data` is the fingerprint of what it is trained on."""
    found, decoder = newest_whole(run.path), decoder_name()
    if found is None:
        console.line(f"output      {run.path}, a new run")
        state.start(console)
    else:
        held, damaged = found
        state.restore(held, data, decoder, force_decoder=bool(chosen_decoder()))
    recipe = hashlib.sha256(repr(state.recipe).encode()).hexdigest()[:8]
    ranks.check_agreement(
        "where the run stands", f"step {state.step} of {state.recipe.name} {recipe} on {data}, decoded by {decoder}"
    )
    if found is not None:
        if ranks.is_main:
            set_aside(damaged, held.path, console)
        if held.decoder != decoder:
            console.warn(f"{held.path} was made with decoder {held.decoder}: the run goes on with other pixels")
        console.line(f"output      {run.path}, resumed after step {state.step} from {held.path.name}")
    for remark in remarks(run, state.step) if ranks.is_main else ():
        console.warn(remark)


def _fingerprint(recipe: Recipe, root: Root) -> str:
    """A hash of all variants that the recipe trains on."""
    variants = sorted({root.nearest(phase.source) for phase in recipe.phases})
    parts = (f"{variant} {root.dataset(variant, 'train').fingerprint}" for variant in variants)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
