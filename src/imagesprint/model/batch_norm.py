"""Batch norm whose running statistics move once a step, and not with each micro-batch.

`torch.nn.BatchNorm2d` moves them at every forward pass, by the local batch alone: the result would depend on
how many micro-batches one rank happens to run. Here a forward pass in training only leaves its micro-batch's
mean and variance behind; the training step sums them beside the gradients and then moves the statistics,
r ← (1 − m)·r + m·(mean over all micro-batches of the step).

What stands behind a batch norm in a network, a residual to add and a ReLU, is given to it, so that fusing.py can have
all of it done at once.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagesprint.errors import RecipeError

# As `fused_norm.fused_norm`: x, weight, bias, residual, relu, eps → output, mean, variance
FusedNorm = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool, float], tuple[Tensor, Tensor, Tensor]]


class BatchNorm2d(nn.BatchNorm2d):
    """As `torch.nn.BatchNorm2d` (same parameters and state-dict keys), but see above.

    After a forward pass in training mode `batch_mean` and `batch_var` (float, [C], the variance unbiased) hold
    the statistics of that micro-batch; `running_mean` and `running_var` are left alone.
    """

    batch_mean: Tensor
    batch_var: Tensor
    fused: FusedNorm | None = None  # what does the work in training, where torch's own operations do not

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.register_buffer("batch_mean", torch.zeros(num_features), persistent=False)
        self.register_buffer("batch_var", torch.ones(num_features), persistent=False)

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:  # noqa: A002 (torch's own name)
        """Return `input` normalised, plus `residual` where there is one, and of that with `relu` what is positive."""
        self.check(input)
        if self.training and self.fused is not None:
            out, mean, variance = self.fused(input, self.weight, self.bias, residual, relu, self.eps)
            self.keep(mean, variance)
            return out
        out = self._normalise(input)
        if residual is not None:
            out = out + residual
        return F.relu(out, inplace=True) if relu else out

    def check(self, x: Tensor) -> None:
        """Raise RecipeError where there is nothing to train on in the `x` to be normalised."""
        if self.training and x.numel() == x.shape[1]:
            raise RecipeError(
                "micro_batch 1 leaves batch norm a single value a channel where the image has shrunk to one pixel",
                "use a micro_batch of 2 or more, or a larger image_size",
            )

    def keep(self, mean: Tensor, variance: Tensor) -> None:
        """Take over the statistics of a micro-batch."""
        self.batch_mean.copy_(mean)
        self.batch_var.copy_(variance)

    def _normalise(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        # momentum=1 makes torch write the micro-batch's own statistics into the buffers given.
        return F.batch_norm(x, self.batch_mean, self.batch_var, self.weight, self.bias, True, 1.0, self.eps)


def batch_norms(module: nn.Module) -> list[BatchNorm2d]:
    """All batch norms inside `module`, in a fixed order."""
    return [child for child in module.modules() if isinstance(child, BatchNorm2d)]


@torch.no_grad()
def measure_statistics(
    norms: Sequence[BatchNorm2d], passes: Iterable[object], sum_over_ranks: Callable[[Tensor], None] | None = None
) -> None:
    """Make the running statistics of `norms`, which are in training mode, the plain mean over some micro-batches.

    Each step of `passes` has one pass through the network, which gives no gradients here. `sum_over_ranks` adds up a
    tensor in place where every rank has a share of them. The sums are of float64, so that their order, and with it the
    number of ranks, hardly matters. (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section
    3: "precise" batch norm.)
    """
    if not norms:
        return
    own = [statistic for norm in norms for statistic in (norm.batch_mean, norm.batch_var)]
    running = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    ends = list(accumulate((statistic.numel() for statistic in own), initial=0))
    sums = torch.zeros(ends[-1] + 1, dtype=torch.float64, device=own[0].device)  # behind them the micro-batches
    for _ in passes:
        sums += torch.cat([*(statistic.double() for statistic in own), sums.new_ones(1)])
    if sum_over_ranks is not None:
        sum_over_ranks(sums)
    for statistic, (start, end) in zip(running, pairwise(ends), strict=True):
        if statistic is not None:
            statistic.copy_(sums[start:end] / sums[-1])


def convert_batch_norms(module: nn.Module) -> None:
    """Replace every `torch.nn.BatchNorm2d` inside `module` by ours."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            ours = BatchNorm2d(child.num_features, child.eps, child.momentum if child.momentum is not None else 0.1)
            ours.load_state_dict(child.state_dict())
            setattr(module, name, ours)
        else:
            convert_batch_norms(child)
