"""Batch norm's running statistics, measured anew at the end of a training.

While a network is trained they follow its weights, some steps behind, and are those of no one state of it; an average
of weights has never seen an image at all. Here training images pass through the weights to be judged as they are, and
the statistics become the plain mean of all micro-batches' (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm",
arXiv 2105.07576, section 3: "precise" batch norm).
"""

from collections.abc import Iterable
from itertools import accumulate, pairwise

import torch

from imagesprint.loading.batch import Batch
from imagesprint.model.batch_norm import batch_norms
from imagesprint.runs.ranks import Ranks
from imagesprint.training.state import TrainingState
from imagesprint.training.step import MicroBatch


@torch.no_grad()
def recalibrate(state: TrainingState, batches: Iterable[Batch], ranks: Ranks) -> None:
    """Pass `batches`, this rank's share, through the network of `state` as in training, without a step.

    The running statistics of its batch norms, but for those that stand still, become the mean over the micro-batches of
    all ranks: of its moving average where it keeps one, else its own. The sums are of float64, so that their order,
    and with it the number of ranks, hardly matters.
    """
    micro_batch = MicroBatch(state, ranks.device, compiled=False)
    with state.holding_evaluated_weights() as network:
        norms = [norm for norm in batch_norms(network) if norm.training]
        own = [statistic for norm in norms for statistic in (norm.batch_mean, norm.batch_var)]
        running = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
        ends = list(accumulate((statistic.numel() for statistic in own), initial=0))
        sums = torch.zeros(ends[-1] + 1, dtype=torch.float64, device=ranks.device)  # behind them the micro-batches
        for batch in batches:
            micro_batch.eager(*(values.to(ranks.device) for values in (batch.images, batch.labels, batch.draws)))
            sums += torch.cat([*(statistic.double() for statistic in own), sums.new_ones(1)])
        ranks.sum(sums)
        for statistic, (start, end) in zip(running, pairwise(ends), strict=True):
            if statistic is not None:
                statistic.copy_(sums[start:end] / sums[-1])
    state.recalibrated = True
