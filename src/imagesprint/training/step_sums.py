"""Everything that a step sums over its micro-batches and ranks, in one flat tensor of fixed layout.

Gradients, batch-norm statistics and metrics lie behind one another in an order that follows from the network
alone, and are reduced together. (DistributedDataParallel forms its buckets anew after the first iteration, so
a resumed run sums in another order than an uninterrupted one: DESIGN.md, section 9.)
"""

import torch
from torch import Tensor, nn

from imagesprint.model.batch_norm import batch_norms
from imagesprint.runs.ranks import Ranks

METRICS = ("loss", "correct1", "correct5", "images")


class StepSums:
    """Owns the `.grad` of every parameter of `network`, as views into its flat tensor.

    A step is `clear`, then for each micro-batch a backward pass and `add`, then `reduce`, then reading `.grad`
    and `metrics` and calling `update_running_statistics`.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._norms = batch_norms(network)
        statistics = [buffer for norm in self._norms for buffer in (norm.batch_mean, norm.batch_var)]
        sizes = [tensor.numel() for tensor in (*self._parameters, *statistics)]
        like = self._parameters[0]
        self._flat = torch.zeros(sum(sizes) + len(METRICS), dtype=like.dtype, device=like.device)
        pieces = torch.split(self._flat, [*sizes, len(METRICS)])
        self.gradients: list[Tensor] = []
        for parameter, piece in zip(self._parameters, pieces, strict=False):
            # The same strides as the weight (channels_last), so that optimizer kernels need no copy.
            gradient = torch.as_strided(self._flat, parameter.shape, parameter.stride(), piece.storage_offset())
            parameter.grad = gradient
            self.gradients.append(gradient)
        self._statistics = statistics
        self._statistic_sums = list(pieces[len(self._parameters) : -1])
        self.metrics: Tensor = pieces[-1]  # sums over the step in the order of METRICS, on the device

    def clear(self) -> None:
        """Set all sums to zero: the start of a step."""
        self._flat.zero_()

    def add(self, metrics: Tensor) -> None:
        """Add what a micro-batch left behind: its batch-norm statistics and `metrics` [len(METRICS)]."""
        self.metrics.add_(metrics)
        if self._statistics:
            torch._foreach_add_(self._statistic_sums, self._statistics)

    def reduce(self, ranks: Ranks) -> None:
        """Sum over all ranks."""
        ranks.sum(self._flat)

    @torch.no_grad()
    def update_running_statistics(self, micro_batches: int) -> None:
        """r ← (1 − m)·r + m·(mean over the step's `micro_batches`), once a step."""
        for index, norm in enumerate(self._norms):
            momentum = norm.momentum or 0.0
            for running, total in zip(
                (norm.running_mean, norm.running_var), self._statistic_sums[2 * index : 2 * index + 2], strict=True
            ):
                if running is not None:
                    running.mul_(1 - momentum).add_(total, alpha=momentum / micro_batches)
