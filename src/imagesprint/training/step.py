"""One optimizer step: forward and backward of each micro-batch, one reduction, one update.

Nothing is read back to the host, but for the overflow check of fp16 with a dynamic loss scale on the CPU.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from imagesprint.loading.batch import Batch
from imagesprint.recipes.recipe import Phase
from imagesprint.runs.ranks import Ranks
from imagesprint.training.compiled import CompiledMicroBatch
from imagesprint.training.micro_batch import MicroBatch
from imagesprint.training.optimizer import set_learning_rate
from imagesprint.training.precision import static_scale
from imagesprint.training.state import TrainingState
from imagesprint.training.stopwatch import Waits


class TrainingStep:
    """Runs steps of `state` on this rank's device; `__call__` does one.

    With `compiled` micro-batches pass through torch.compile and, on CUDA, CUDA graphs. `prepare` does that for all
    shapes at once; one that was not prepared is before its first step.
    """

    def __init__(self, state: TrainingState, ranks: Ranks, compiled: bool = False) -> None:
        self._state = state
        self._ranks = ranks
        self._loss_scale = static_scale(state.recipe)
        self._micro_batch = MicroBatch(state, ranks.device, compiled)
        self._compiled = CompiledMicroBatch(self._micro_batch, ranks.device) if compiled else None
        self.data_waits = Waits(ranks.device)  # for batches
        self.rank_waits = Waits(ranks.device)  # for other ranks' sums, and for theirs on the way

    def prepare(self, phases: Iterable[Phase]) -> int:
        """Compile and warm the shapes of `phases`; returns how many were not. Raises RunError where that fails.

        Nothing that the training depends on is changed, so it may be called between any two steps.
        """
        if self._compiled is None:
            return 0
        shapes = {(phase.micro_batch, phase.image_size) for phase in phases}
        # The largest first: the others then fit into the memory that it took.
        largest_first = sorted(shapes, key=lambda shape: shape[0] * shape[1] ** 2, reverse=True)
        return sum(self._compiled.prepare(shape) for shape in largest_first)

    def __call__(self, batches: Iterator[Batch], phase: Phase, lr: float) -> Tensor:
        """Take this rank's share of a step from `batches` and update the weights.

        Returns the step's sums over all ranks in the order of `step_sums.METRICS`, on the device, valid until
        the next step.
        """
        state, sums, device = self._state, self._state.sums, self._ranks.device
        self.prepare([phase])
        run = self._compiled or self._micro_batch
        self._micro_batch.share_step(phase.micro_batches)
        sums.clear()
        for left in reversed(range(phase.micro_batches // self._ranks.world_size)):
            with self.data_waits:
                batch = next(batches)
            if left == 0:
                sums.overlap(self._ranks)
            run(batch.images.to(device), batch.labels.to(device))
        with self.rank_waits:
            sums.reduce(self._ranks)
        set_learning_rate(state.optimizer, lr)
        self._update_weights()
        sums.update_running_statistics(phase.micro_batches)
        state.update_average()
        state.step += 1
        return sums.metrics

    def _update_weights(self) -> None:
        state = self._state
        if self._loss_scale != 1:
            torch._foreach_div_(state.sums.gradients, self._loss_scale)
        state.scaler.step(state.optimizer)
        state.scaler.update()
