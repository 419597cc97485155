"""What training did between two logged steps: sums on the device, one host read a window."""

import time

import torch
from torch import Tensor

from imagesprint.loading.loader import Loader
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import MetricsRow
from imagesprint.training.cadence import LOG_EVERY
from imagesprint.training.guards import LossGuard
from imagesprint.training.stage_times import StageTimes
from imagesprint.training.step_sums import METRICS


class Meter:
    """Gathers the sums of steps and the time they took."""

    def __init__(self, schedule: Schedule, loader: Loader, ranks: Ranks, stages: StageTimes) -> None:
        self._schedule = schedule
        self._loader = loader
        self._ranks = ranks
        self._stages = stages
        self._guard = LossGuard(schedule, loader.recipe.seed)
        self._counts_overflows = loader.recipe.precision == "fp16"
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
        """The row of metrics.jsonl for the window that ends after `step` steps; starts the next window.

        `loss` is cross-entropy plus `l2`; top1 and top5 are in percent over the window's training images; `lr` is
        the rate of its last step; `data_wait` the share of its time spent waiting for data, 0..1; `seconds` the
        window's length; `overflows` the steps whose fp16 gradients overflowed; `stages` and `ranks` are those of
        StageTimes. Raises RunError as LossGuard does.
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
