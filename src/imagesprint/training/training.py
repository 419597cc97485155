"""`train`: from a recipe and prepared data to a run directory with checkpoints, logs and a result."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesprint.console import Console
from imagesprint.evaluating.evaluation import evaluate, evaluation_row, evaluation_set
from imagesprint.images.decoders import chosen_decoder, decoder_name, describe_decoder
from imagesprint.loading.loader import Loader
from imagesprint.model.building import build_model
from imagesprint.model.weights import TrainedModel, read_training_checkpoint
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.validation import check_world_size
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.checkpoint import checkpoint_path, save_checkpoint
from imagesprint.runs.directory import RunDirectory, check_run, create_run, resolve_precision
from imagesprint.runs.logs import RunLogs
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.training.bad_records import BadRecords
from imagesprint.training.cadence import Cadence
from imagesprint.training.meter import Meter
from imagesprint.training.optimizer import l2_loss
from imagesprint.training.precision import best_precision
from imagesprint.training.progress import ProgressLine, show_exceptions, show_ranks, show_recipe
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep


@dataclass(frozen=True)
class TrainingOptions:
    """What does not change a result: where, on what, and how often it is saved."""

    device: str = "auto"
    resume: str = "auto"
    checkpoint_every: int | None = None  # steps; None: every epoch
    stop_after: int | None = None  # steps; None: the whole recipe


def train(recipe: Recipe, data: Path, output: Path, options: TrainingOptions, console: Console) -> dict[str, Any]:
    """Train `recipe` on the root `data` into the run directory `output`, or go on where it stopped.

    Returns, on every rank, what `train --json` prints: steps, epochs, images_per_second, wall_seconds, bad_records,
    top1, top5, loss and checkpoint, of the whole run; top1, top5 and loss are None where the last step was not
    evaluated. Raises the errors of errors.py; what was written before stays usable.
    """
    root = open_root(data)
    with open_ranks(options.device) as ranks:
        check_world_size(recipe, ranks.world_size)
        console = console if ranks.is_main else Console.silent()
        recipe = resolve_precision(recipe, RunDirectory(output), best_precision(ranks.device))
        run = RunDirectory(output)
        if ranks.is_main:
            check_run(output, recipe, options.resume)
        ranks.barrier()  # from here on every rank reads what rank 0 has checked
        result = run.result()
        if result is not None:
            console.line(f"{output} is finished: {result['steps']} steps, nothing to do")
            return _with_path(result, output)
        training = _Training(recipe, root, run, options, ranks, console)
        if ranks.is_main:
            create_run(run, recipe)
            console.log_to(output / "log.txt")
        return training.run()


class _Training:
    """One command's share of a run."""

    def __init__(
        self, recipe: Recipe, root: Root, run: RunDirectory, options: TrainingOptions, ranks: Ranks, console: Console
    ) -> None:
        self._recipe, self._root, self._run, self._ranks, self._console = recipe, root, run, ranks, console
        num_train = len(root.dataset(root.nearest(recipe.phases[0].source), "train"))
        self._schedule = Schedule(recipe, num_train)
        until = min(options.stop_after or self._schedule.total_steps, self._schedule.total_steps)
        self._cadence = Cadence(self._schedule, recipe.eval_every, options.checkpoint_every, until)
        self._state = TrainingState(recipe, root.classes, ranks.device, root.class_texts)
        judge = TrainedModel(build_model(recipe, len(root.classes)), recipe, root.classes, num_train)
        self._judge = judge.to(ranks.device)
        self._evaluation_set = evaluation_set(root, self._judge)
        self._data, self._decoder = _fingerprint(recipe, root), decoder_name()
        self._fallbacks = 0  # images that the native decoder left to Pillow in this command, on all ranks
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train to the end of this command; returns the result."""
        show_recipe(self._console, self._recipe, self._schedule, self._ranks.world_size)
        show_ranks(self._console, self._ranks)
        self._console.line(f"decoder     {describe_decoder()}")
        self._start_or_resume()
        self._ranks.check_agreement(
            "where the run stands",
            f"step {self._state.step} of {self._recipe} on {self._data}, decoded by {self._decoder}",
        )
        if self._state.step < self._cadence.until:
            self._train()
            show_exceptions(self._console, self._fallbacks, self._state.bad_records)
        self._ranks.barrier()  # the main rank has written all that the result is read from
        return self._result()

    def _train(self) -> None:
        with Loader(
            self._root,
            self._recipe,
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
            start_step=self._state.step,
            end_step=self._cadence.until,
            threads=self._ranks.threads,
        ) as loader:
            for note in loader.notes:
                self._console.warn(note)
            if self._ranks.is_main:
                self._run.rewind(self._state.step)
                with RunLogs(self._run, purge_after=self._state.step) as logs:
                    self._loop(loader, logs)
            else:
                self._loop(loader, None)
        self._fallbacks += self._ranks.total(loader.fallbacks)

    def _loop(self, loader: Loader, logs: RunLogs | None) -> None:
        state, schedule, cadence = self._state, self._schedule, self._cadence
        train_step, batches = TrainingStep(state, self._ranks), iter(loader)
        meter, bad_records = Meter(schedule, loader, self._ranks.device), BadRecords(loader, self._ranks, self._console)
        progress = ProgressLine(self._console, self._recipe, schedule, state.step, cadence.until)
        while state.step < cadence.until:
            phase, lr = schedule.phase(state.step), schedule.lr(state.step)
            meter.add(train_step(batches, phase, lr))
            row = None
            if cadence.log(state.step):
                row = meter.row(state.step, l2_loss(state.optimizer))
                state.train_seconds += row["seconds"]
                state.bad_records += bad_records.count()
                if logs is not None:
                    logs.metrics(row)
            progress.update(state.step, row)
            if cadence.evaluate(state.step):
                self._evaluate(logs)
                meter.start_window()
            if cadence.checkpoint(state.step):
                self._save()
                meter.start_window()

    def _evaluate(self, logs: RunLogs | None) -> None:
        state, step = self._state, self._state.step
        self._judge.network.load_state_dict(state.evaluated_weights())
        accuracy = evaluate(self._judge, self._evaluation_set, self._ranks)
        self._fallbacks += accuracy.fallbacks
        checkpoint = checkpoint_path(Path(), step) if self._cadence.checkpoint(step) else None
        epoch = self._schedule.epochs_done(step)
        if logs is not None:
            logs.evaluation(evaluation_row(accuracy, step, epoch, checkpoint))
        self._console.line(
            f"evaluated   epoch {epoch:g}: top-1 {accuracy.top1:.2f}%, top-5 {accuracy.top5:.2f}%, "
            f"loss {accuracy.loss:.4f} on {accuracy.num_images} images"
        )

    def _save(self) -> None:
        self._state.wall_seconds += self._lap()
        if self._ranks.is_main:
            save_checkpoint(self._run.path, self._state.checkpoint(self._schedule.num_train, self._data, self._decoder))

    def _lap(self) -> float:
        """Seconds since the last call, or since this object was made."""
        before, self._began = self._began, time.monotonic()
        return self._began - before

    def _start_or_resume(self) -> None:
        checkpoints = self._run.checkpoints()
        if not checkpoints:
            self._console.line(f"output      {self._run.path}, a new run")
            left = self._state.start()
            if self._recipe.init:
                self._console.line(
                    f"start       from {self._recipe.init}{', all but ' if left else ''}{', '.join(left)}"
                )
            return
        newest = checkpoints[-1]
        content = read_training_checkpoint(newest)
        self._state.restore(content, newest, self._data, self._decoder, force_decoder=bool(chosen_decoder()))
        if content["decoder"] != self._decoder:
            self._console.warn(
                f"{newest} was made with decoder {content['decoder']}: the run goes on with other pixels"
            )
        self._console.line(f"output      {self._run.path}, resumed after step {self._state.step} from {newest.name}")

    def _result(self) -> dict[str, Any]:
        """The result up to here; kept as result.json once the recipe is done."""
        state, step = self._state, self._state.step
        images = sum(
            max(0, min(end, step) - start) * phase.batch_size
            for phase, (start, end) in zip(self._recipe.phases, self._schedule.bounds, strict=True)
        )
        evaluated = {row["step"]: row for row in self._run.evaluations()}.get(step, {})
        result = {
            "steps": step,
            "epochs": self._schedule.epochs_done(step),
            "images_per_second": images / state.train_seconds,
            "wall_seconds": state.wall_seconds,
            "bad_records": state.bad_records,
            **{key: evaluated.get(key) for key in ("top1", "top5", "loss")},
            "checkpoint": str(checkpoint_path(Path(), step)),
        }
        if self._ranks.is_main and step == self._schedule.total_steps:
            self._run.write_result(result)
        return _with_path(result, self._run.path)


def _with_path(result: dict[str, Any], run: Path) -> dict[str, Any]:
    """The result with the path of its checkpoint from here: a run directory may be moved, so it holds relative ones."""
    return result | {"checkpoint": str(run / result["checkpoint"])}


def _fingerprint(recipe: Recipe, root: Root) -> str:
    """A hash of all variants that the recipe trains on."""
    variants = sorted({root.nearest(phase.source) for phase in recipe.phases})
    parts = (f"{variant} {root.dataset(variant, 'train').fingerprint}" for variant in variants)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
