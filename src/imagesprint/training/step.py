"""One optimizer step: forward and backward of each micro-batch, compiled or not, one reduction, one update."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from imagesprint.errors import RunError
from imagesprint.evaluating.evaluation import correct_counts
from imagesprint.loading.batch import Batch
from imagesprint.model.resnet import normalize
from imagesprint.recipes.recipe import Phase
from imagesprint.runs.ranks import Ranks
from imagesprint.training.optimizer import autocast, set_learning_rate, static_scale, weight_dtype
from imagesprint.training.prefetch import Waits
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
        self._is_captured = compiled and device.type == "cuda"
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
            if self._is_captured:
                self._state.sums.add_gradients(scaled)
            else:
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


EAGER_RUNS = 3  # before a capture, as PyTorch's notes on CUDA graphs have it: compiling, cuDNN's choices, workspaces
MAX_SHAPES = 64  # of all recipes in one process; torch.compile alone stops at 8

Shape = tuple[int, int]  # images in a micro-batch, pixels of their side


def wants_compiled(choice: str, device: torch.device) -> bool:
    """Whether --compile auto, on or off means compiled steps on `device`: auto, those of a GPU."""
    return choice == "on" or (choice == "auto" and device.type == "cuda")


class CompiledMicroBatch:
    """Runs `micro_batch`, compiled, for the shapes that `prepare` was called with."""

    def __init__(self, micro_batch: MicroBatch, device: torch.device) -> None:
        self._micro_batch = micro_batch
        self._device = device
        self._runs: dict[Shape, Callable[[Tensor, Tensor], None]] = {}
        # One for all: only one graph runs at a time, and nothing in its memory is needed after it.
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """As `MicroBatch`."""
        self._runs[images.shape[0], images.shape[1]](images, labels)

    def prepare(self, shape: Shape) -> bool:
        """Compile and warm `shape` unless it is; returns whether it was not. Leaves garbage in the step's sums.

        Nothing else of the training changes, the states of random generators included. Raises RunError where the
        compiler fails or the memory of the GPU does not suffice.
        """
        if shape in self._runs:
            return False
        rows, size = shape
        images = torch.zeros((rows, size, size, 3), dtype=torch.uint8, device=self._device)
        labels = torch.zeros(rows, dtype=torch.int64, device=self._device)
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), torch._dynamo.config.patch(recompile_limit=MAX_SHAPES):
                self._runs[shape] = self._warmed(images, labels)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{rows} images of {size} px at once do not fit into the memory of {self._device}",
                "choose a smaller micro_batch (--set 'phases.*.micro_batch=auto' finds one): batch norm then sees "
                "fewer images, which changes the result",
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise RunError(
                f"torch.compile failed for {rows} images of {size} px: {_first_line(error)}",
                "--compile off trains without it",
            ) from error
        return True

    def _warmed(self, images: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], None]:
        if self._pool is None:
            self._micro_batch(images, labels)
            return self._micro_batch
        return _Graph(self._micro_batch, images, labels, self._pool)


class _Graph:
    """The kernels of one run, captured once and replayed on the current stream."""

    def __init__(self, run: Callable[[Tensor, Tensor], None], images: Tensor, labels: Tensor, pool: Any) -> None:
        self._images, self._labels = images, labels
        # Eager runs and capture share one stream: autograd remembers on which one a gradient was made.
        stream = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):
            for _ in range(EAGER_RUNS):
                run(images, labels)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on: the loader's pins memory, NCCL's looks at events.
        with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
            run(images, labels)
        torch.cuda.current_stream(images.device).wait_stream(stream)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
