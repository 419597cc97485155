"""Micro-batches compiled and warmed for each shape before they are needed; on CUDA replayed as graphs.

Why the graphs are captured here and not by torch.compile's "reduce-overhead": there the gradients lie in the graph's
own memory, which the next replay overwrites; accumulating over micro-batches then fails or silently keeps one of them
(pytorch #96693, #169545; make_graphed_callables has the same trouble, #181723). Here every tensor that outlives a
micro-batch (gradients, statistics, metrics: `StepSums`) is allocated before, outside of the graph's memory, and what
is captured only adds to it. Replaying a graph four times is then the same work as four eager micro-batches.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imagesprint.errors import RunError
from imagesprint.training.micro_batch import MicroBatch

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
