"""One optimizer step: forward and backward of each micro-batch, one reduction, one update.

Nothing is read back to the host, but for the overflow check of fp16 with a dynamic loss scale.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from imagesprint.evaluating.metrics import correct_counts
from imagesprint.loading.batch import Batch
from imagesprint.model.building import normalize
from imagesprint.recipes.recipe import Phase
from imagesprint.runs.ranks import Ranks
from imagesprint.training.optimizer import set_learning_rate
from imagesprint.training.precision import autocast, static_scale, weight_dtype
from imagesprint.training.state import TrainingState


class TrainingStep:
    """Runs steps of `state` on this rank's device; `__call__` does one."""

    def __init__(self, state: TrainingState, ranks: Ranks) -> None:
        self._state = state
        self._ranks = ranks
        dtype, device = weight_dtype(state.recipe), ranks.device
        self._mean = torch.tensor(state.recipe.mean, dtype=dtype, device=device)
        self._std = torch.tensor(state.recipe.std, dtype=dtype, device=device)
        self._loss_scale = static_scale(state.recipe)

    def __call__(self, batches: Iterator[Batch], phase: Phase, lr: float) -> Tensor:
        """Take this rank's share of a step from `batches` and update the weights.

        Returns the step's sums over all ranks in the order of `step_sums.METRICS`, on the device, valid until
        the next step.
        """
        state, sums = self._state, self._state.sums
        sums.clear()
        for _ in range(phase.micro_batches // self._ranks.world_size):
            sums.add(self._micro_batch(next(batches), phase.micro_batches))
        sums.reduce(self._ranks)
        set_learning_rate(state.optimizer, lr)
        self._update_weights()
        sums.update_running_statistics(phase.micro_batches)
        state.update_average()
        state.step += 1
        return state.sums.metrics

    def _micro_batch(self, batch: Batch, micro_batches: int) -> Tensor:
        """Forward and backward; gradients of the mean over the whole step's images are added to `.grad`."""
        device = self._ranks.device
        images = normalize(batch.images.to(device), self._mean, self._std)
        labels = batch.labels.to(device)
        with autocast(self._state.recipe, device):
            logits = self._state.network(images)
        logits = logits.to(self._mean.dtype)
        loss = F.cross_entropy(logits, labels, label_smoothing=self._state.recipe.label_smoothing)
        scaled: Tensor = self._state.scaler.scale(loss * (self._loss_scale / micro_batches))
        torch.autograd.backward(scaled)
        with torch.no_grad():
            count = torch.full((1,), len(labels), device=device)
            return torch.cat((loss[None] * count, correct_counts(logits, labels), count)).to(self._mean.dtype)

    def _update_weights(self) -> None:
        state = self._state
        if self._loss_scale != 1:
            torch._foreach_div_(state.sums.gradients, self._loss_scale)
        state.scaler.step(state.optimizer)
        state.scaler.update()
