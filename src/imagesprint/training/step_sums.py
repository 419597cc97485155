"""Everything that a step sums over its micro-batches and ranks, in one flat tensor of fixed layout.

Batch-norm statistics, metrics and gradients lie behind one another, the gradients from the network's end to its
beginning, as a backward pass makes them. The tensor is cut into buckets; over several ranks each is summed as soon
as its last gradient is there, while the backward pass goes on. Layout and buckets follow from the network alone, and
buckets are summed one after another, so no bit depends on timing. (DistributedDataParallel forms its buckets anew
after the first iteration, so a resumed run sums in another order than an uninterrupted one: DESIGN.md, section 9.)
"""

from collections.abc import Callable
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from imagesprint.model.batch_norm import BatchNorm2d, batch_norms
from imagesprint.runs.ranks import Ranks

METRICS = ("loss", "correct1", "correct5", "images")
ALIGNMENT = 16  # bytes: the widest load of a GPU's thread; optimizer and reduction kernels are slower without
BUCKET_BYTES = 25 * 2**20  # what DistributedDataParallel takes by default (bucket_cap_mb)


class StepSums:
    """Owns the `.grad` of every parameter of `network`, as views into its flat tensor.

    A step is `clear`, then for each micro-batch a forward pass, `add` and a backward pass, with `overlap` before the
    last of them, then `reduce`, then reading `.grad` and `metrics` and calling `update_running_statistics`.
    """

    def __init__(self, network: nn.Module) -> None:
        # From the network's end to its beginning, as everything below
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad][::-1]
        norms = batch_norms(network)
        self._statistics = [buffer for norm in norms for buffer in (norm.batch_mean, norm.batch_var)]
        sizes = [tensor.numel() for tensor in (*self._statistics, *self._parameters)]
        sizes.insert(len(self._statistics), len(METRICS))
        like = self._parameters[0]
        unit = ALIGNMENT // like.element_size()
        starts = list(accumulate((-(-size // unit) * unit for size in sizes), initial=0))
        self._flat = torch.zeros(starts[-1], dtype=like.dtype, device=like.device)
        pieces = [self._flat[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        self._statistic_sums = pieces[: len(self._statistics)]
        self._running = _running_statistics(norms, self._statistic_sums)
        self.metrics: Tensor = pieces[len(self._statistics)]  # sums over the step in the order of METRICS
        self.gradients = [
            # The same strides as the weight (channels_last), so that optimizer kernels need no copy.
            torch.as_strided(self._flat, parameter.shape, parameter.stride(), piece.storage_offset())
            for parameter, piece in zip(self._parameters, pieces[len(self._statistics) + 1 :], strict=True)
        ]
        for parameter, gradient in zip(self._parameters, self.gradients, strict=True):
            parameter.grad = gradient
        self._cut(starts[len(self._statistics) + 2 :], BUCKET_BYTES // like.element_size())
        self._has_hooks = False
        self._overlapping: Ranks | None = None
        self._missing: list[int] = []  # gradients that a bucket still waits for
        self._waits: list[Callable[[], None]] = []  # for the buckets whose sum over the ranks has begun

    def _cut(self, gradient_ends: list[int], bucket_size: int) -> None:
        """Cut the flat tensor behind the first gradient that fills a bucket, and so on."""
        edges, self._bucket_of = [0], {}
        for parameter, end in zip(self._parameters, gradient_ends, strict=True):
            self._bucket_of[parameter] = len(edges) - 1
            if end - edges[-1] >= bucket_size or end == gradient_ends[-1]:
                edges.append(end)
        self._buckets = [self._flat[start:end] for start, end in pairwise(edges)]

    def clear(self) -> None:
        """Set all sums to zero: the start of a step."""
        self._flat.zero_()

    def add(self, metrics: Tensor) -> None:
        """Add what a micro-batch's forward pass left behind: its batch-norm statistics and `metrics` [len(METRICS)]."""
        self.metrics.add_(metrics)
        if self._statistics:
            torch._foreach_add_(self._statistic_sums, self._statistics)

    def overlap(self, ranks: Ranks) -> None:
        """Say that the next backward pass is the step's last: what it completes is summed over the ranks at once."""
        if ranks.world_size == 1:
            return
        if not self._has_hooks:
            self._has_hooks = True
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]
        self._missing = [0] * len(self._buckets)
        for bucket in self._bucket_of.values():
            self._missing[bucket] += 1
        self._overlapping = ranks

    def _on_gradient(self, parameter: nn.Parameter) -> None:
        if self._overlapping is None:  # more micro-batches follow
            return
        self._missing[self._bucket_of[parameter]] -= 1
        while len(self._waits) < len(self._buckets) and self._missing[len(self._waits)] == 0:
            self._start_next(self._overlapping)

    def _start_next(self, ranks: Ranks) -> None:
        self._waits.append(ranks.start_sum(self._buckets[len(self._waits)]))

    def reduce(self, ranks: Ranks) -> None:
        """Sum over all ranks what is not yet, and wait for all: on a GPU its stream waits, not the host."""
        while len(self._waits) < len(self._buckets):  # all of them after the replay of a CUDA graph: it runs no hooks
            self._start_next(ranks)
        for wait in self._waits:
            wait()
        self._waits.clear()
        self._overlapping = None

    @torch.no_grad()
    def update_running_statistics(self, micro_batches: int) -> None:
        """r ← (1 − m)·r + m·(mean over the step's `micro_batches`), once a step."""
        for momentum, (running, sums) in self._running.items():
            torch._foreach_mul_(running, 1 - momentum)
            torch._foreach_add_(running, sums, alpha=momentum / micro_batches)


def _running_statistics(norms: list[BatchNorm2d], sums: list[Tensor]) -> dict[float, tuple[list[Tensor], list[Tensor]]]:
    """By momentum: the running statistics that move with it, and what they move to, summed over the step."""
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for index, norm in enumerate(norms):
        running, totals = by_momentum.setdefault(norm.momentum or 0.0, ([], []))
        for statistic, total in zip((norm.running_mean, norm.running_var), sums[2 * index :], strict=False):
            if statistic is not None:
                running.append(statistic)
                totals.append(total)
    return by_momentum
