"""What training did between two logged steps: sums on the device, one host read a window."""

import time
from typing import Any

import torch
from torch import Tensor

from imagesprint.errors import RunError
from imagesprint.loading.loader import Loader
from imagesprint.recipes.schedule import Schedule
from imagesprint.training.step_sums import METRICS


class Meter:
    """Gathers the sums of steps and the time they took."""

    def __init__(self, schedule: Schedule, loader: Loader, device: torch.device) -> None:
        self._schedule = schedule
        self._loader = loader
        self._sums = torch.zeros(len(METRICS), dtype=torch.float64, device=device)
        self.start_window()

    def start_window(self) -> None:
        """Forget the time since the last row: what passed in between was no training."""
        self._sums.zero_()
        self._waited = self._loader.wait_seconds
        self._began = time.perf_counter()

    def add(self, sums: Tensor) -> None:
        """Add a step's sums; stays on the device."""
        self._sums.add_(sums)

    def row(self, step: int, l2: Tensor) -> dict[str, Any]:
        """The row of metrics.jsonl for the window that ends after `step` steps; starts the next window.

        `loss` is cross-entropy plus `l2`; top1 and top5 are in percent over the window's training images; `lr` is
        the rate of its last step; `data_wait` the share of its time spent waiting for data, 0..1; `seconds` the
        window's length. Raises RunError where the loss is no longer a finite number.
        """
        loss, correct1, correct5, images, penalty = torch.cat((self._sums, l2.double()[None])).tolist()
        seconds = time.perf_counter() - self._began
        waited = self._loader.wait_seconds - self._waited
        cross_entropy, lr = loss / images, self._schedule.lr(step - 1)
        if not cross_entropy + penalty < float("inf"):  # true for nan, too; the penalty sees the newest weights
            raise RunError(
                f"the loss is {cross_entropy + penalty} at step {step}, learning rate {lr:.5g}",
                "lower the learning rates (--set 'phases.*.lr=…') in a new run; the checkpoints before it are whole",
            )
        phase = self._schedule.phase(step - 1)
        self.start_window()
        return {
            "step": step,
            "epoch": self._schedule.epochs_done(step),
            "phase": self._schedule.phase_index(step - 1),
            "loss": cross_entropy + penalty,
            "cross_entropy": cross_entropy,
            "l2": penalty,
            "top1": 100 * correct1 / images,
            "top5": 100 * correct5 / images,
            "lr": lr,
            "batch_size": phase.batch_size,
            "image_size": phase.image_size,
            "images_per_second": images / seconds,
            "data_wait": min(1.0, waited / seconds),
            "seconds": seconds,
        }
