"""What a `train` command leaves behind: rows, checkpoints, evaluations, its history and the result."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from imagesprint.checkpoints.format import CheckpointContent
from imagesprint.checkpoints.naming import checkpoint_path
from imagesprint.checkpoints.retention import Retention
from imagesprint.checkpoints.writer import CheckpointWriter
from imagesprint.console import Console
from imagesprint.errors import CtrlCError, StoppedError
from imagesprint.evaluating.evaluation import Accuracy, evaluation_row
from imagesprint.images.decoders import describe_decoder
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import DONE, History, RunLogs, interruptions, mend_tensorboard
from imagesprint.runs.mirror import RunCopy
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import MetricsRow, RunResult, of_classes
from imagesprint.storage.url import Place
from imagesprint.training.metering import Cadence, is_out_of_patience
from imagesprint.training.progress import ProgressLine, show_compiling, show_exceptions, show_plan
from imagesprint.training.state import TrainingState
from imagesprint.training.time_plan import TimeKeeper


class Recorder:
    """Counts for `state` on every rank; writes and speaks on rank 0, and is silent on the others.

    `content` gives what a checkpoint is to hold; `since` is when the time began that counts as the run's, by
    time.monotonic().
    """

    def __init__(
        self,
        copy: RunCopy,
        state: TrainingState,
        cadence: Cadence,
        keeper: TimeKeeper,
        ranks: Ranks,
        console: Console,
        content: Callable[[], CheckpointContent],
        since: float,
    ) -> None:
        self.time, self.console = keeper, console
        run = RunDirectory(copy.path)
        self._copy, self._run, self._state, self._cadence, self._ranks = copy, run, state, cadence, ranks
        self._content, self._since, self._start_step = content, since, state.step
        self._progress = ProgressLine(console, cadence.schedule, keeper)
        self._row: MetricsRow | None = None
        self._history = History(run, console)
        self._logs: RunLogs | None = None  # these two are those of rank 0
        self._checkpoints: CheckpointWriter | None = None
        self._fallbacks = 0  # images that the native decoder left to Pillow in this command, on all ranks

    @contextmanager
    def history(self, data: Place) -> Iterator[None]:
        """Note that the command begins here, on the ROOT `data`, and where and why it ends."""
        if not self._ranks.is_main:
            yield
            return
        self._history.begin(self._state.step, self._ranks, describe_decoder(), data)
        try:
            yield
        except BaseException as error:
            self._history.end(self._state.step, _reason(error))
            raise
        self._history.end(self._state.step, DONE)

    @contextmanager
    def files(self, keep: Retention) -> Iterator[None]:
        """Have logs and checkpoints written, those that `keep` wants, and what lies beyond the run's step removed."""
        run, step = self._run, self._state.step
        with ExitStack() as stack:
            if self._ranks.is_main:
                run.rewind(step)
                if mend_tensorboard(run, step):
                    self.console.warn(f"{run.tensorboard} lacked logged steps: it is made anew from the rows")
                self._copy.begin(step)
                self._logs = stack.enter_context(RunLogs(run, purge_after=step))
                self._checkpoints = stack.enter_context(self._checkpoint_writer(keep))
            yield
        show_exceptions(self.console, self._fallbacks, self._state.bad_records)

    def _checkpoint_writer(self, keep: Retention) -> CheckpointWriter:
        """Raises UsageError where what is ahead does not fit on the disk."""
        run, cadence, like = self._run, self._cadence, self._state.checkpoint_like()
        size, due = sum(tensor.nbytes for tensor in like), len(cadence.checkpoints(self._state.step))
        keep.check_space(run.path, size, due, cadence.schedule.epochs_done(cadence.until))
        return CheckpointWriter(
            run.path, like, self.console, lambda: self._copy.surplus(keep, cadence.schedule, run.top1)
        )

    def evaluation_is_missing(self) -> bool:
        """Whether the step that the run stands at is to be evaluated and was not: the command before was ended there.

        Rank 0 looks, the others hear from it. What is to be recalibrated is evaluated after that; whether the row that
        is there was written before or after it cannot be told.
        """
        state, missing = self._state, False
        if self._ranks.is_main and state.step > 0 and self._cadence.evaluate(state.step):
            is_new = all(row.step != state.step for row in self._run.evaluations())
            missing = state.recalibrated or (is_new and not self.awaits_statistics())
        return self._ranks.total(missing) > 0

    def goes_on(self) -> bool:
        """Whether steps are left for this command. Every rank calls it."""
        return self._state.step < self._cadence.until and not self.is_over()

    def is_over(self) -> bool:
        """Whether the run ends at the step where it stands. Every rank calls it.

        By patience it does so by the rows of evaluations.jsonl up to that step: a run that was killed ends where one
        that was not does.
        """
        step, cadence = self._state.step, self._cadence
        if self._state.recalibrated or step == cadence.schedule.total_steps:
            return True
        if not cadence.patience or not cadence.evaluate(step):
            return False
        is_over = False
        if self._ranks.is_main:
            top1 = self._run.first_top1()
            judged = [top1[at] for at in sorted(top1) if at <= step and cadence.evaluate(at)]
            is_over = is_out_of_patience(judged, cadence.patience)
        return self._ranks.total(is_over) > 0

    def is_to_recalibrate(self) -> bool:
        """Whether the run is over but for measuring batch norm's statistics anew. Every rank calls it."""
        return self._state.recipe.recalibrate_bn > 0 and not self._state.recalibrated and self.is_over()

    def awaits_statistics(self) -> bool:
        """Whether this is the last step, and a checkpoint and an evaluation wait until it is recalibrated."""
        state = self._state
        is_last = state.step == self._cadence.schedule.total_steps
        return is_last and state.recipe.recalibrate_bn > 0 and not state.recalibrated

    def compiled(self, shapes: int, seconds: float) -> None:
        """Take note of how long it took to compile `shapes`; the run's clock stood still meanwhile."""
        if shapes:
            self._state.compile_seconds += seconds
            self._since += seconds
        show_compiling(self.console, shapes, seconds)

    def row(self, row: MetricsRow, bad_records: int) -> None:
        """Log the row of a window in which so many bad records were met."""
        self._row = row
        self._state.train_seconds += row.seconds
        self._state.overflows += row.overflows
        self._state.bad_records += bad_records
        if self.time.steps(row):
            show_plan(self.console, self.time)
        if self._checkpoints is not None:
            self._copy.look()
            self._checkpoints.look()
            assert row.stages is not None
            row = replace(row, stages=replace(row.stages, checkpoint_writing=self._checkpoints.take_seconds()))
        if self._logs is not None:
            self._logs.metrics(row)

    def progress(self) -> None:
        """Show that another step is done."""
        self._progress.update(self._state.step, self._row)

    def save(self) -> None:
        """Begin to write a checkpoint."""
        with self.time.checkpoint():
            self._state.wall_seconds += self._lap()
            if self._checkpoints is not None:
                self._checkpoints.save(self._content())

    def evaluate(self, judge: Callable[[], Accuracy]) -> None:
        """Have `judge` judge the state as it is, and log what it finds."""
        state, step = self._state, self._state.step
        with self.time.evaluation():
            accuracy = judge()
        self.fallbacks(accuracy.fallbacks)
        saved = self._cadence.checkpoint(step) or step == self._start_step
        epoch, checkpoint = self._cadence.schedule.epochs_done(state.step), checkpoint_path(Path(), step)
        if self._logs is not None:
            self._logs.evaluation(evaluation_row(accuracy, step, epoch, checkpoint if saved else None))
        top1 = f"top-1 {accuracy.top1:.2f}%{of_classes(accuracy.top1, accuracy.mean_class_accuracy)}"
        self.console.line(
            f"evaluated   epoch {epoch:g}: {top1}, top-5 {accuracy.top5:.2f}%, "
            f"loss {accuracy.loss:.4f} on {accuracy.num_images} images in {accuracy.precision}"
        )

    def fallbacks(self, count: int) -> None:
        """Count images that were left to Pillow, on all ranks together."""
        self._fallbacks += count

    def stopped(self, number: int) -> StoppedError:
        """The error that ends a command which signal `number` stopped, once the checkpoint is on the disk."""
        if self._checkpoints is not None:
            self._checkpoints.finish()
        self._ranks.barrier()
        kind = CtrlCError if number == signal.SIGINT else StoppedError
        return kind(
            f"stopped by {signal.Signals(number).name} after step {self._state.step}, which is saved",
            "run the same command again to go on from there",
        )

    def result(self) -> RunResult:
        """The result up to here, once rank 0 has written all; kept as result.json where the run is over."""
        self._ranks.barrier()
        state, step, schedule = self._state, self._state.step, self._cadence.schedule
        state.wall_seconds += self._lap()
        is_over = self.is_over()
        if ended_early := is_over and step < schedule.total_steps:
            self.console.line(
                f"ended early after step {step} of {schedule.total_steps}: {state.recipe.patience} evaluations in a "
                "row brought no better top-1"
            )
        evaluated = next((row for row in self._run.evaluations() if row.step == step), None)
        result = RunResult(
            steps=step,
            epochs=schedule.epochs_done(step),
            images_per_second=schedule.images_before(step) / state.train_seconds,
            wall_seconds=state.wall_seconds,
            compile_seconds=state.compile_seconds,
            bad_records=state.bad_records,
            overflows=state.overflows,
            interruptions=interruptions(self._run.commands()),
            **{key: getattr(evaluated, key, None) for key in ("top1", "top5", "loss", "mean_class_accuracy")},
            plan=self.time.comparison(step),
            checkpoint=str(checkpoint_path(Path(), step)),
            ended_early=ended_early,
        )
        if self._ranks.is_main and is_over:
            self._run.write_result(result)
        return result

    def _lap(self) -> float:
        """Seconds since the last call, or since the run's time began."""
        before, self._since = self._since, time.monotonic()
        return self._since - before


def _reason(error: BaseException) -> str:
    """Why a command ended, for the history."""
    if isinstance(error, StoppedError):
        return error.what
    return "SIGINT" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
