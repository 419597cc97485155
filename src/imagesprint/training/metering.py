"""What training did between two logged steps: sums on the device, stage times, bad records, and when to stop."""

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imagesprint.console import Console
from imagesprint.errors import RunError
from imagesprint.images.decoding import STAGES
from imagesprint.loading.loader import Loader
from imagesprint.loading.sampling import Sampler
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import MetricsRow, RankSeconds, StageSeconds
from imagesprint.training.prefetch import DeviceBatches
from imagesprint.training.state import METRICS
from imagesprint.training.step import TrainingStep

LOG_EVERY = 10  # steps between rows of metrics.jsonl, each of which costs one host read


@dataclass(frozen=True)
class Cadence:
    """`step` below is always the number of steps done.

    `checkpoint_every` counts steps, or is None for every epoch; `until` is the step at which this command ends. Where
    the recipe has `patience`, the run may end at any evaluation: each has its checkpoint then.
    """

    schedule: Schedule
    eval_every: int
    checkpoint_every: int | None
    until: int
    patience: int = 0

    def evaluate(self, step: int) -> bool:
        """At the end of every `eval_every`-th epoch, and at the end of the run."""
        if step == self.schedule.total_steps:
            return True
        epoch = self.schedule.position(step).epoch
        return self.eval_every > 0 and self.schedule.is_epoch_start(step) and epoch % self.eval_every == 0

    def checkpoint(self, step: int) -> bool:
        """At every epoch, or every so many steps; where this command ends, or the run may."""
        if step == self.until or (self.patience and self.evaluate(step)):
            return True
        if self.checkpoint_every is None:
            return self.schedule.is_epoch_start(step)
        return step % self.checkpoint_every == 0

    def log(self, step: int) -> bool:
        """Every LOG_EVERY steps and wherever a phase, an epoch or the command ends, or a checkpoint is written.

        A window of logged steps never spans a checkpoint: a resumed run logs the same windows.
        """
        if step % LOG_EVERY == 0 or self.checkpoint(step) or self.evaluate(step):
            return True
        return any(step == end for _, end in self.schedule.bounds)

    def evaluations(self, start: int) -> list[int]:
        """The steps after `start`, up to the command's end, at which one is due; in order."""
        return [step for step in self.schedule.epoch_ends() if start < step <= self.until and self.evaluate(step)]

    def checkpoints(self, start: int) -> list[int]:
        """The steps after `start`, up to the command's end, at which one is due; in order."""
        every = self.checkpoint_every
        due = self.schedule.epoch_ends() if every is None else range(every, self.until, every)
        may_end = self.evaluations(start) if self.patience else ()
        return sorted({step for step in (*due, *may_end, self.until) if start < step <= self.until})


def is_out_of_patience(top1: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` of these evaluations brought nothing better than the best before; never with 0."""
    return 0 < patience < len(top1) and max(top1[-patience:]) <= max(top1[:-patience])


# A guess among C classes costs ln C, below 12 for all that has been published; nothing comes back from far above it.
EXPLODED: Final = 1000.0
_SHOWN_IDS: Final = 32


class LossGuard:
    """Finds the step that went wrong, and names its samples."""

    def __init__(self, schedule: Schedule, sampler: Sampler) -> None:
        self._schedule = schedule
        self._sampler = sampler

    def check(self, step: int, losses: Sequence[float], penalty: float) -> None:
        """Check a window that ends after `step` steps: the `losses` of each of its steps, before weight decay.

        `penalty` is the part of weight decay after the last one, which sees the newest weights. Raises RunError for
        the first step whose loss is not finite or over EXPLODED.
        """
        first = step - len(losses) + 1
        for number, loss in enumerate(losses, first):
            if not loss <= EXPLODED:  # true for nan, too
                raise self._error(number, f"the loss is {loss:.5g}")
        if not math.isfinite(penalty):
            raise self._error(step, f"the weights are not finite any more (their L2 loss is {penalty})")

    def _error(self, step: int, what: str) -> RunError:
        ids = self._sampler.batch(step - 1).ids.tolist()
        shown = ", ".join(map(str, ids[:_SHOWN_IDS])) + (", …" if len(ids) > _SHOWN_IDS else "")
        return RunError(
            f"{what} at step {step}, learning rate {self._schedule.lr(step - 1):.5g}, "
            f"{len(ids)} samples with ids {shown}",
            f"look at them: imagesprint inspect ROOT --run RUN --step {step}; or lower the learning rates "
            "(--set 'phases.*.lr=…') in a new run; the checkpoints before it are sound",
        )


_SHOWN_BYTES = 1000  # of the first one's message


class BadRecords:
    """What the ranks' loaders passed over; each rank calls `count` at the same steps."""

    def __init__(self, loader: Loader, ranks: Ranks, console: Console) -> None:
        self._loader, self._ranks, self._console = loader, ranks, console
        self._counted = 0
        self._told = False

    def count(self) -> int:
        """Return how many there were on all ranks since the last call; warns of the first of the command."""
        if all(spec.bad_records == "stop" for spec in self._loader.specs):
            return 0
        counts = self._ranks.gather(self._loader.bad_records - self._counted)
        self._counted = self._loader.bad_records
        if any(counts) and not self._told:
            self._told = True
            first = self._from_rank(next(rank for rank, count in enumerate(counts) if count))
            self._console.warn(f"bad record: {first}; another stands in for it, and for more that may come")
        return sum(counts)

    def _from_rank(self, rank: int) -> str:
        """Return the first message of one rank, on every rank."""
        text = torch.zeros(_SHOWN_BYTES, dtype=torch.int64, device=self._ranks.device)
        if rank == self._ranks.rank:
            message = self._loader.first_bad_record.encode()[:_SHOWN_BYTES]
            text[: len(message)] = torch.tensor(list(message))
        self._ranks.sum(text)
        return bytes(self._ranks.read(text)).rstrip(b"\0").decode(errors="replace")


PAUSES: Final = ("checkpoint", "evaluation")
_COUNTED: Final = ("load", "storage", *STAGES, "copy", "copy_wait")  # of each rank, since the loader began
_DIGITS: Final = 6  # of the seconds that are logged


class StageTimes:
    """What `Meter` adds to a row of metrics.jsonl; from it `imagesprint doctor RUN` finds the narrowest stage."""

    def __init__(self, loader: Loader, batches: DeviceBatches, step: TrainingStep, ranks: Ranks) -> None:
        self._loader, self._batches, self._step, self._ranks = loader, batches, step, ranks
        self._pauses = dict.fromkeys(PAUSES, 0.0)
        self._counts = self._counted()

    def _counted(self) -> list[float]:
        loader, copies = self._loader, self._batches.copies
        decoder = (loader.stages * 1e-9).tolist()
        return [loader.load_seconds, loader.storage_seconds, *decoder, copies.copying, copies.waited]

    def start_window(self) -> None:
        """Forget what ranks waited for since the last row; what loaders and copies did meanwhile counts."""
        self._step.data_waits.take()
        self._step.rank_waits.take()

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Count what is done inside as one of PAUSES, for the next row."""
        began = time.perf_counter()
        yield
        self._pauses[name] += time.perf_counter() - began

    def row(self, seconds: float) -> tuple[StageSeconds, RankSeconds]:
        """Return what a window of `seconds` that ends here took. Every rank calls it."""
        counts, before = self._counted(), self._counts
        self._counts = counts
        since = [count - former for count, former in zip(counts, before, strict=True)]
        mine = [seconds - self._step.rank_waits.take(), self._step.data_waits.take(), *since]
        own, data_wait, *others = zip(*self._of_all(mine), strict=True)
        stages = dict(zip(_COUNTED, map(statistics.median_low, others), strict=True)) | self._pauses
        self._pauses = dict.fromkeys(PAUSES, 0.0)
        rounded = {name: round(value, _DIGITS) for name, value in stages.items()}
        return StageSeconds(**rounded, threads=self._ranks.threads), RankSeconds(_rounded(own), _rounded(data_wait))

    def _of_all(self, mine: list[float]) -> list[list[float]]:
        """The figures of each rank."""
        if self._ranks.world_size == 1:
            return [mine]
        table = torch.zeros(self._ranks.world_size, len(mine), dtype=torch.float64)
        table[self._ranks.rank] = torch.tensor(mine, dtype=torch.float64)
        table = table.to(self._ranks.device)
        self._ranks.sum(table)
        return self._ranks.read(table)


def _rounded(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(value, _DIGITS) for value in seconds)


class Meter:
    """Gathers the sums of steps and the time they took."""

    def __init__(self, recipe: Recipe, schedule: Schedule, loader: Loader, ranks: Ranks, stages: StageTimes) -> None:
        self._schedule = schedule
        self._loader = loader
        self._ranks = ranks
        self._stages = stages
        self._guard = LossGuard(schedule, loader.sampler())
        self._counts_overflows = recipe.precision == "fp16"
        self._sums = torch.zeros(len(METRICS), dtype=torch.float64, device=ranks.device)
        self._losses = torch.zeros(LOG_EVERY, dtype=torch.float64, device=ranks.device)  # of each step of the window
        self._overflows = torch.zeros(1, dtype=torch.float64, device=ranks.device)
        self.start_window()

    def start_window(self) -> None:
        """Forget the time since the last row: what passed in between was no training."""
        self._sums.zero_()
        self._overflows.zero_()
        self._steps = 0
        self._waited = self._loader.wait_seconds
        self._stages.start_window()
        self._began = time.perf_counter()

    def add(self, sums: Tensor, gradients: list[Tensor]) -> None:
        """Add a step's sums, and whether its `gradients` overflowed where they are of fp16; stays on the device."""
        self._sums.add_(sums)
        self._losses[self._steps].copy_(sums[METRICS.index("loss")] / sums[METRICS.index("images")])
        self._steps += 1
        if self._counts_overflows:
            self._overflows += ~torch.stack(torch._foreach_norm(gradients)).isfinite().all()

    def row(self, step: int, l2: Tensor) -> MetricsRow:
        """The row of the window that ends after `step` steps, whose weight decay costs `l2`; starts the next one.

        Raises RunError as LossGuard does.
        """
        values = torch.cat((self._sums, l2.double()[None], self._overflows, self._losses[: self._steps]))
        loss, correct1, correct5, images, penalty, overflows, *losses = self._ranks.read(values)
        stages, of_ranks = self._stages.row(time.perf_counter() - self._began)
        seconds = time.perf_counter() - self._began
        waited = self._loader.wait_seconds - self._waited
        cross_entropy, lr = loss / images, self._schedule.lr(step - 1)
        self._guard.check(step, losses, penalty)
        phase = self._schedule.phase(step - 1)
        self.start_window()
        return MetricsRow(
            step=step,
            epoch=self._schedule.epochs_done(step),
            phase=self._schedule.phase_index(step - 1),
            loss=cross_entropy + penalty,
            cross_entropy=cross_entropy,
            l2=penalty,
            top1=100 * correct1 / images,
            top5=100 * correct5 / images,
            lr=lr,
            batch_size=phase.batch_size,
            image_size=phase.image_size,
            images_per_second=images / seconds,
            data_wait=min(1.0, waited / seconds),
            seconds=seconds,
            overflows=int(overflows),
            stages=stages,
            ranks=of_ranks,
        )
