"""Forward and backward of one micro-batch: the part of a step that is compiled and, on CUDA, replayed as a graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from imagesprint.evaluating.metrics import correct_counts
from imagesprint.model.building import normalize
from imagesprint.training.precision import autocast, static_scale, weight_dtype
from imagesprint.training.state import TrainingState


class MicroBatch:
    """Adds a micro-batch's gradients, batch-norm statistics and metrics to the sums of `state`; reads nothing back.

    Gradients are only ever added to the `.grad` that `StepSums` owns. Without `compiled` each operation is a call of
    its own; with it, torch.compile makes one forward and one backward function for each shape it is called with.
    """

    def __init__(self, state: TrainingState, device: torch.device, compiled: bool) -> None:
        self._state = state
        self._device = device
        dtype = weight_dtype(state.recipe)
        self._mean = torch.tensor(state.recipe.mean, dtype=dtype, device=device)
        self._std = torch.tensor(state.recipe.std, dtype=dtype, device=device)
        self._static_scale = static_scale(state.recipe)
        # A tensor: what a compiled function or a graph reads as a number would be fixed in it for good.
        self._share = torch.ones((), dtype=dtype, device=device)
        self._forward = (
            torch.compile(self._eager_forward, fullgraph=True, dynamic=False) if compiled else (self._eager_forward)
        )

    def share_step(self, micro_batches: int) -> None:
        """Make each loss from here on one of `micro_batches` whose mean is the step's."""
        self._share.fill_(self._static_scale / micro_batches)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Train on `images`, uint8 [M, S, S, 3], and `labels`, int64 [M], on the device."""
        with _fastest_convolutions():
            loss, metrics = self._forward(images, labels)
            self._state.sums.add(metrics)
            scaled: Tensor = self._state.scaler.scale(loss * self._share)
            torch.autograd.backward(scaled)

    def _eager_forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean loss, and its metrics in the order of `step_sums.METRICS`."""
        with autocast(self._state.recipe, self._device):
            logits = self._state.network(normalize(images, self._mean, self._std))
        logits = logits.to(self._mean.dtype)
        loss = F.cross_entropy(logits, labels, label_smoothing=self._state.recipe.label_smoothing)
        with torch.no_grad():
            count = torch.full((1,), len(labels), device=labels.device)
            metrics = torch.cat((loss[None] * count, correct_counts(logits, labels), count)).to(self._mean.dtype)
        return loss, metrics


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms and take the fastest, also where it sums in no fixed order.

    For training alone: an evaluation's counts should be the same every time.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
