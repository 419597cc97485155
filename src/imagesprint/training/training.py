"""`train`: from a recipe and prepared data to a run directory with checkpoints, logs and a result."""

import hashlib
import signal
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.checkpoints.writing import KEEP_ALL, Keep, checkpoint_path
from imagesprint.console import Console
from imagesprint.errors import CtrlCError, StoppedError
from imagesprint.evaluating.evaluation import evaluate, evaluation_row, evaluation_set
from imagesprint.images.decoders import chosen_decoder, decoder_name, describe_decoder
from imagesprint.loading.loader import Loader
from imagesprint.model.resnet import build_model
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.validation import check_world_size, largest_world_size
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.directory import RunDirectory, check_run, create_run, resolve_precision, run_lock
from imagesprint.runs.environment import StopSignals
from imagesprint.runs.logs import DONE, History, RunLogs, failure_log, mend_tensorboard, remarks, run_log
from imagesprint.runs.meeting import RANK_TIMEOUT
from imagesprint.runs.ranks import Ranks, StopVote, open_ranks
from imagesprint.runs.rows import MetricsRow, RunResult
from imagesprint.training.checkpoints import Checkpoints, newest_whole, set_aside
from imagesprint.training.metering import BadRecords, Cadence, Meter, StageTimes
from imagesprint.training.micro_batch_size import settle_micro_batches, with_stored_sizes
from imagesprint.training.optimizer import best_precision, l2_loss
from imagesprint.training.prefetch import on_device
from imagesprint.training.progress import (
    ProgressLine,
    show_comparison,
    show_compiling,
    show_exceptions,
    show_plan,
    show_ranks,
    show_recipe,
)
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep, wants_compiled
from imagesprint.training.time_plan import Planner, TimeKeeper, TimePlan


@dataclass(frozen=True)
class TrainingOptions:
    """What does not change a result: where, on what, and how often it is saved."""

    device: str = "auto"
    resume: str = "auto"
    checkpoint_every: int | None = None  # steps; None: every epoch
    stop_after: int | None = None  # steps; None: the whole recipe
    keep: Keep = KEEP_ALL
    rank_timeout: float = RANK_TIMEOUT  # seconds after which a rank that keeps the others waiting ends the run
    compile: str = "auto"  # auto: on a GPU


def train(
    recipe: Recipe,
    data: Path,
    output: Path,
    options: TrainingOptions,
    console: Console,
    planner: Planner | None = None,
    elapsed: float = 0.0,
) -> dict[str, Any]:
    """Train `recipe` on the root `data` into the run directory `output`, or go on where it stopped.

    Returns, on every rank, what `train --json` prints: steps, epochs, images_per_second, wall_seconds, compile_seconds
    (on top of the former), bad_records, overflows, interruptions, top1, top5, loss and checkpoint, of the whole run;
    top1, top5 and loss are None where the last step was not evaluated. On a rank that stood by it is empty. `plan`
    compares this command's time with what `planner`, asked on rank 0 alone, said of it (`TimeKeeper.comparison`);
    `elapsed` are the seconds that the command took before this call. Raises the errors of errors.py; what was written
    before stays usable. SIGINT, SIGTERM, SIGUSR1 and SIGHUP end it with a StoppedError, after a checkpoint.
    """
    began = time.monotonic() - elapsed
    root = open_root(data)
    run = RunDirectory(output)

    def fitting(started: int) -> int:
        return largest_world_size(with_stored_sizes(recipe, run.recipe()), started)

    with open_ranks(options.device, options.rank_timeout, fitting) as ranks, ExitStack() as stack:
        if ranks.stands_by:
            ranks.stand_by()
            return {}
        check_world_size(recipe, ranks.world_size)
        console = console if ranks.is_main else Console.silent()
        recipe = resolve_precision(recipe, run, best_precision(ranks.device))
        recipe = settle_micro_batches(recipe, run.recipe(), root.classes, ranks, console)
        if ranks.is_main:
            check_run(output, recipe, options.resume)
        ranks.barrier()  # from here on every rank reads what rank 0 has checked
        result = run.result() if run.recipe_file.exists() else None
        if result is not None:
            console.line(f"{output} is finished: {result.steps} steps, nothing to do")
            return _with_path(result, output)
        plan = None
        if planner is not None and ranks.is_main:
            plan = planner(recipe, root, ranks, wants_compiled(options.compile, ranks.device))
        training = _Training(recipe, root, run, options, ranks, console)
        if ranks.is_main:
            stack.enter_context(run_lock(output))
            create_run(run, recipe)
            stack.enter_context(run_log(run.log_file, console))
        stack.enter_context(failure_log(run.log_file, ranks.rank))
        return training.run(plan, began)


class _Training:
    """One command's share of a run."""

    def __init__(
        self, recipe: Recipe, root: Root, run: RunDirectory, options: TrainingOptions, ranks: Ranks, console: Console
    ) -> None:
        self._recipe, self._root, self._run, self._ranks, self._console = recipe, root, run, ranks, console
        self._options = options
        num_train = len(root.dataset(root.nearest(recipe.phases[0].source), "train"))
        self._schedule = Schedule(recipe, num_train)
        until = min(options.stop_after or self._schedule.total_steps, self._schedule.total_steps)
        self._cadence = Cadence(self._schedule, recipe.eval_every, options.checkpoint_every, until)
        self._state = TrainingState(recipe, root.classes, ranks.device, root.class_texts)
        judge = TrainedModel(build_model(recipe, len(root.classes)), recipe, root.classes, num_train)
        self._judge = judge.to(ranks.device)
        self._evaluation_set = evaluation_set(root, self._judge)
        self._data, self._decoder = _fingerprint(recipe, root), decoder_name()
        self._keep, self._history = options.keep, History(run)
        self._logs: RunLogs | None = None  # these two are those of rank 0
        self._checkpoints: Checkpoints | None = None
        self._fallbacks = 0  # images that the native decoder left to Pillow in this command, on all ranks
        self._began = time.monotonic()

    def run(self, plan: TimePlan | None, began: float) -> dict[str, Any]:
        """Train to the end of this command, which `began` at that time of time.monotonic(); returns the result."""
        show_recipe(self._console, self._recipe, self._schedule, self._ranks.world_size)
        show_ranks(self._console, self._ranks)
        if self._state.not_fused:
            self._console.warn(f"torch's kernels train, not ours, which are to be faster: {self._state.not_fused}")
        self._console.line(f"decoder     {describe_decoder()}")
        self._start_or_resume()
        self._time = TimeKeeper(self._recipe, self._cadence, self._state.step, plan, began)
        if self._ranks.is_main:
            self._history.begin(self._state.step, self._ranks.world_size)
        try:
            self._work()
            self._ranks.barrier()  # the main rank has written all that the result is read from
            result = self._result()
            show_comparison(self._console, result.plan)
        except BaseException as error:
            self._end(_reason(error))
            raise
        self._end(DONE)
        return _with_path(result, self._run.path)

    def _end(self, reason: str) -> None:
        if self._ranks.is_main:
            self._history.end(self._state.step, reason)

    def _work(self) -> None:
        """Evaluate where that is still due, and train to the end of this command."""
        evaluate, train = self._evaluation_is_missing(), self._state.step < self._cadence.until
        if not evaluate and not train:
            return
        with ExitStack() as stack:
            signals = stack.enter_context(StopSignals())
            if self._ranks.is_main:
                self._run.rewind(self._state.step)
                if mend_tensorboard(self._run, self._state.step):
                    self._console.warn(f"{self._run.tensorboard} lacked logged steps: it is made anew from the rows")
                self._logs = stack.enter_context(RunLogs(self._run, purge_after=self._state.step))
                self._checkpoints = stack.enter_context(
                    Checkpoints(self._run, self._state, self._cadence, self._keep, self._console)
                )
            if evaluate:
                self._evaluate()
            if train:
                show_plan(self._console, self._time)
                self._train(signals)
        show_exceptions(self._console, self._fallbacks, self._state.bad_records)

    def _evaluation_is_missing(self) -> bool:
        """Whether the step that the run stands at is to be evaluated and was not: the command before was ended there.

        Rank 0 looks, the others hear from it.
        """
        step, missing = self._state.step, False
        if self._ranks.is_main and step > 0 and self._cadence.evaluate(step):
            missing = all(row.step != step for row in self._run.evaluations())
        return self._ranks.total(missing) > 0

    def _train(self, signals: StopSignals) -> None:
        with Loader(
            self._root,
            self._recipe,
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
            start_step=self._state.step,
            end_step=self._cadence.until,
            threads=self._ranks.threads,
            pin=self._ranks.device.type == "cuda",
        ) as loader:
            for note in loader.notes:
                self._console.warn(note)
            self._loop(loader, signals)
        self._fallbacks += self._ranks.total(loader.fallbacks)

    def _loop(self, loader: Loader, signals: StopSignals) -> None:
        state, schedule, cadence = self._state, self._schedule, self._cadence
        train_step, batches = self._compiled_step(), on_device(iter(loader), self._ranks.device)
        vote, stages = StopVote(self._ranks, signals), StageTimes(loader, batches, train_step, self._ranks)
        meter = Meter(schedule, loader, self._ranks, stages)
        bad_records = BadRecords(loader, self._ranks, self._console)
        progress = ProgressLine(self._console, schedule, self._time)
        self._time.begin()
        while state.step < cadence.until:
            phase, lr = schedule.phase(state.step), schedule.lr(state.step)
            meter.add(train_step(batches, phase, lr), state.sums.gradients)
            with train_step.rank_waits:
                stop, row = vote(), None
            save, evaluate = cadence.checkpoint(state.step) or stop, cadence.evaluate(state.step) and not stop
            if cadence.log(state.step) or stop:
                row = meter.row(state.step, l2_loss(state.optimizer))
                self._log(row, bad_records)
            progress.update(state.step, row)
            if save:  # before the evaluation, which can be made up for
                with self._time.checkpoint(), stages.pause("checkpoint"):
                    self._save()
            if evaluate:
                with stages.pause("evaluation"):
                    self._evaluate()
            if stop:
                raise self._stopped(stop)
            if save or evaluate:
                meter.start_window()
        self._ranks.watch.heed(None)  # the others wait for what rank 0 has still to write

    def _compiled_step(self) -> TrainingStep:
        """The step, compiled for all that lies ahead where it is to be; the run's clock stands still meanwhile."""
        began, state = time.monotonic(), self._state
        step = TrainingStep(state, self._ranks, wants_compiled(self._options.compile, self._ranks.device))
        bounds = zip(self._recipe.phases, self._schedule.bounds, strict=True)
        ahead = [phase for phase, (a, b) in bounds if a < self._cadence.until and b > state.step]
        shapes = max(self._ranks.gather(step.prepare(ahead)))  # waits for the slowest rank
        seconds = time.monotonic() - began if shapes else 0.0
        state.compile_seconds += seconds
        self._began += seconds
        show_compiling(self._console, shapes, seconds)
        return step

    def _log(self, row: MetricsRow, bad_records: BadRecords) -> None:
        self._state.train_seconds += row.seconds
        self._state.overflows += row.overflows
        if self._time.steps(row):
            show_plan(self._console, self._time)
        self._state.bad_records += bad_records.count()
        if self._checkpoints is not None:
            self._checkpoints.look()
            assert row.stages is not None
            row = replace(row, stages=replace(row.stages, checkpoint_writing=self._checkpoints.take_writing()))
        if self._logs is not None:
            self._logs.metrics(row)

    def _evaluate(self) -> None:
        state, step = self._state, self._state.step
        self._judge.network.load_state_dict(state.evaluated_weights())
        with self._time.evaluation():
            accuracy = evaluate(self._judge, self._evaluation_set, self._ranks)
        self._fallbacks += accuracy.fallbacks
        saved = self._cadence.checkpoint(step) or step == self._start_step
        checkpoint = checkpoint_path(Path(), step) if saved else None
        epoch = self._schedule.epochs_done(step)
        if self._logs is not None:
            self._logs.evaluation(evaluation_row(accuracy, step, epoch, checkpoint))
        self._console.line(
            f"evaluated   epoch {epoch:g}: top-1 {accuracy.top1:.2f}%, top-5 {accuracy.top5:.2f}%, "
            f"loss {accuracy.loss:.4f} on {accuracy.num_images} images"
        )

    def _save(self) -> None:
        self._state.wall_seconds += self._lap()
        if self._checkpoints is not None:
            self._checkpoints.save(self._state.checkpoint(self._schedule.num_train, self._data, self._decoder))

    def _stopped(self, number: int) -> StoppedError:
        """The error that ends a command which signal `number` stopped, once the checkpoint is on the disk."""
        if self._checkpoints is not None:
            self._checkpoints.finish()
        self._ranks.barrier()
        kind = CtrlCError if number == signal.SIGINT else StoppedError
        return kind(
            f"stopped by {signal.Signals(number).name} after step {self._state.step}, which is saved",
            "run the same command again to go on from there",
        )

    def _lap(self) -> float:
        """Seconds since the last call, or since this object was made."""
        before, self._began = self._began, time.monotonic()
        return self._began - before

    def _start_or_resume(self) -> None:
        found = newest_whole(self._run)
        if found is None:
            self._console.line(f"output      {self._run.path}, a new run")
            self._state.start(self._console)
        else:
            held, damaged = found
            self._state.restore(held, self._data, self._decoder, force_decoder=bool(chosen_decoder()))
        self._start_step = self._state.step
        self._ranks.check_agreement(
            "where the run stands",
            f"step {self._state.step} of {self._recipe} on {self._data}, decoded by {self._decoder}",
        )
        if found is not None:
            if self._ranks.is_main:
                set_aside(damaged, held.path, self._console)
            if held.decoder != self._decoder:
                self._console.warn(
                    f"{held.path} was made with decoder {held.decoder}: the run goes on with other pixels"
                )
            self._console.line(
                f"output      {self._run.path}, resumed after step {self._state.step} from {held.path.name}"
            )
        for remark in remarks(self._run, self._state.step) if self._ranks.is_main else ():
            self._console.warn(remark)

    def _result(self) -> RunResult:
        """The result up to here; kept as result.json once the recipe is done."""
        state, step = self._state, self._state.step
        state.wall_seconds += self._lap()
        images = sum(
            max(0, min(end, step) - start) * phase.batch_size
            for phase, (start, end) in zip(self._recipe.phases, self._schedule.bounds, strict=True)
        )
        evaluated = next((row for row in self._run.evaluations() if row.step == step), None)
        result = RunResult(
            steps=step,
            epochs=self._schedule.epochs_done(step),
            images_per_second=images / state.train_seconds,
            wall_seconds=state.wall_seconds,
            compile_seconds=state.compile_seconds,
            bad_records=state.bad_records,
            overflows=state.overflows,
            interruptions=self._history.interruptions(),
            **{key: getattr(evaluated, key, None) for key in ("top1", "top5", "loss")},
            plan=self._time.comparison(),
            checkpoint=str(checkpoint_path(Path(), step)),
        )
        if self._ranks.is_main and step == self._schedule.total_steps:
            self._run.write_result(result)
        return result


def _reason(error: BaseException) -> str:
    """Why a command ended, for the history."""
    if isinstance(error, StoppedError):
        return error.what
    return "SIGINT" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _with_path(result: RunResult, run: Path) -> dict[str, Any]:
    """The result with the path of its checkpoint from here: a run directory may be moved, so it holds relative ones."""
    return asdict(result) | {"checkpoint": str(run / result.checkpoint)}


def _fingerprint(recipe: Recipe, root: Root) -> str:
    """A hash of all variants that the recipe trains on."""
    variants = sorted({root.nearest(phase.source) for phase in recipe.phases})
    parts = (f"{variant} {root.dataset(variant, 'train').fingerprint}" for variant in variants)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
