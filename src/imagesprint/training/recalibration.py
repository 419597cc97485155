"""Batch norm's running statistics, measured anew at the end of a training.

While a network is trained they follow its weights, some steps behind, and are those of no one state of it; an average
of weights has never seen an image at all. Here training images pass through the weights to be judged as they are, and
the statistics become the plain mean of all micro-batches'.
"""

from collections.abc import Iterable
from dataclasses import replace

from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.loading.sampling import batch_specs
from imagesprint.model.batch_norm import batch_norms, measure_statistics
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root
from imagesprint.runs.ranks import Ranks
from imagesprint.training.prefetch import on_device
from imagesprint.training.state import TrainingState
from imagesprint.training.step import MicroBatch


def recalibrate(state: TrainingState, batches: Iterable[Batch], ranks: Ranks) -> None:
    """Pass `batches`, this rank's share, through the network of `state` as in training, without a step.

    The running statistics of its batch norms, but for those that stand still, become the mean over the micro-batches of
    all ranks: of its moving average where it keeps one, else its own.
    """
    micro_batch = MicroBatch(state, ranks.device, compiled=False)
    on_rank = ([tensor.to(ranks.device) for tensor in (batch.images, batch.labels, batch.draws)] for batch in batches)
    with state.holding_evaluated_weights() as network:
        norms = [norm for norm in batch_norms(network) if norm.training]
        measure_statistics(norms, (micro_batch.eager(*inputs) for inputs in on_rank), ranks.sum)
    state.recalibrated = True


def recalibrate_by_what_follows(root: Root, state: TrainingState, schedule: Schedule, ranks: Ranks) -> int:
    """Do so by the images of the recipe's `recalibrate_bn` steps that would follow: the phase that was last goes on.

    Returns how many images were left to Pillow, on all ranks.
    """
    recipe, index = state.recipe, schedule.phase_index(state.step - 1)
    *before, last = batch_specs(recipe, recipe.draws)[: index + 1]
    start, end = schedule.bounds[index]
    state.freeze(recipe.phases[index].freeze)  # where the run was resumed here, no step has
    more = replace(last, epochs=None, steps=end - start + recipe.recalibrate_bn)
    with Loader(
        root, [*before, more], ranks.rank, ranks.world_size, state.step,
        threads=ranks.threads, end_step=state.step + recipe.recalibrate_bn, pin=ranks.device.type == "cuda",
    ) as loader:  # fmt: skip
        recalibrate(state, on_device(iter(loader), ranks.device), ranks)
    state.bad_records += ranks.total(loader.bad_records)
    return ranks.total(loader.fallbacks)
