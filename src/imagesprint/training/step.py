"""One optimizer step: forward and backward of each micro-batch, compiled or not, one reduction, one update.

Nothing is read back to the host, but for the overflow check of fp16 with a dynamic loss scale, on the CPU and where the
optimizer leaves it to torch's GradScaler (LARS, Muon).

Why the graphs are captured here and not by torch.compile's "reduce-overhead": there the gradients lie in the graph's
own memory, which the next replay overwrites; accumulating over micro-batches then fails or silently keeps one of them
(pytorch #96693, #169545; make_graphed_callables has the same trouble, #181723). Here every tensor that outlives a
micro-batch (gradients, statistics, metrics: `StepSums`) is allocated before, outside of the graph's memory, and what
is captured only adds to it. Replaying a graph four times is then the same work as four eager micro-batches.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from imagesprint.errors import RunError
from imagesprint.evaluating.evaluation import correct_counts
from imagesprint.loading.batch import Batch
from imagesprint.model.building import normalize
from imagesprint.model.depths import head_of
from imagesprint.recipes.recipe import Phase
from imagesprint.runs.ranks import Ranks
from imagesprint.training.losses import LOSSES
from imagesprint.training.optimizer import autocast, set_learning_rate, static_scale, weight_dtype
from imagesprint.training.prefetch import Waits
from imagesprint.training.state import TrainingState
from imagesprint.training.transforms import transforms_of


def wants_compiled(choice: str, device: torch.device) -> bool:
    """Whether --compile auto, on or off means compiled steps on `device`: auto, those of a GPU."""
    return choice == "on" or (choice == "auto" and device.type == "cuda")


class TrainingStep:
    """Runs steps of `state` on this rank's device; `__call__` does one.

    With `compiled` micro-batches pass through torch.compile and, on CUDA, CUDA graphs. `prepare` gets ready for all
    shapes at once; one that was not prepared is before its first step. Where the recipe has features once, batches
    bring features, what the head takes, in the place of images, and there is nothing worth compiling.
    """

    def __init__(self, state: TrainingState, ranks: Ranks, compiled: bool = False) -> None:
        self._state = state
        self._ranks = ranks
        self._loss_scale = static_scale(state.recipe)
        self._compiled = compiled and not state.recipe.features_once
        self._micro_batch = MicroBatch(state, ranks.device, self._compiled)
        self.data_waits = Waits(ranks.device)  # for batches
        self.rank_waits = Waits(ranks.device)  # for other ranks' sums, and for theirs on the way

    def prepare(self, phases: Iterable[Phase]) -> int:
        """Compile and warm the shapes of `phases`; returns how many were not. Raises RunError where that fails.

        Nothing that the training depends on is changed, so it may be called between any two steps.
        """
        if not self._compiled:
            return 0
        return self._micro_batch.prepare({(phase.micro_batch, phase.image_size, phase.freeze) for phase in phases})

    def __call__(self, batches: Iterator[Batch], phase: Phase, lr: float) -> Tensor:
        """Take this rank's share of a step from `batches` and update the weights.

        Returns the step's sums over all ranks in the order of `state.METRICS`, on the device, valid until
        the next step.
        """
        state, sums, device = self._state, self._state.sums, self._ranks.device
        self.prepare([phase])
        state.freeze(phase.freeze)
        self._micro_batch.share_step(phase.micro_batches)
        sums.clear()
        for left in reversed(range(phase.micro_batches // self._ranks.world_size)):
            with self.data_waits:
                batch = next(batches)
            if left == 0:
                sums.overlap(self._ranks)
            self._micro_batch(batch.images.to(device), batch.labels.to(device), batch.draws.to(device))
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


EAGER_RUNS = 3  # before a capture, as PyTorch's notes on CUDA graphs have it: compiling, cuDNN's choices, workspaces
MAX_SHAPES = 64  # of all recipes in one process; torch.compile alone stops at 8

Shape = tuple[int, int, str]  # images in a micro-batch, pixels of their side, what is frozen
Inputs = tuple[Tensor, Tensor, Tensor]  # images uint8 [M, S, S, 3] or features, labels int64 [M], draws float32 [M, K]


def _memory(shape: Shape) -> tuple[int, bool, str]:
    """An order of shapes by the memory that they take: of one size the one in which nothing is frozen takes most."""
    rows, size, freeze = shape
    return rows * size**2, freeze == "none", freeze


class MicroBatch:
    """Adds a micro-batch's gradients, batch-norm statistics and metrics to the sums of `state`; reads nothing back.

    Gradients are only ever added to the `.grad` that `StepSums` owns. Without `compiled` each operation is a call of
    its own; with it, torch.compile makes one forward and one backward function for each shape that `prepare` was
    called with, and a GPU gets them as one graph.
    """

    def __init__(self, state: TrainingState, device: torch.device, compiled: bool) -> None:
        self._state = state
        self._device = device
        recipe, dtype = state.recipe, weight_dtype(state.recipe)
        self._mean = torch.tensor(recipe.mean, dtype=dtype, device=device)
        self._std = torch.tensor(recipe.std, dtype=dtype, device=device)
        self._loss = LOSSES[recipe.loss](recipe, state.class_counts).to(device, dtype)
        self._transform = transforms_of(recipe, len(state.classes), device)
        self._logits = self._of_features if recipe.features_once else self._of_images
        self._num_draws = sum(count for _, count in recipe.draws)
        self._static_scale = static_scale(recipe)
        # A tensor: what a compiled function or a graph reads as a number would be fixed in it for good.
        self._share = torch.ones((), dtype=dtype, device=device)
        self._forward = torch.compile(self.eager, fullgraph=True, dynamic=False) if compiled else self.eager
        self._graphs: dict[Shape, _Graph | None] = {}  # of the shapes that are ready; None on a CPU
        self._capture = _Capture(device) if compiled and device.type == "cuda" else None

    def share_step(self, micro_batches: int) -> None:
        """Make each loss from here on one of `micro_batches` whose mean is the step's."""
        self._share.fill_(self._static_scale / micro_batches)

    def __call__(self, *inputs: *Inputs) -> None:
        """Train on images, labels and draws, which lie on the device."""
        graph = self._graphs.get((inputs[0].shape[0], inputs[0].shape[1], self._state.frozen))
        (graph or self._run)(*inputs)

    def _run(self, *inputs: *Inputs) -> None:
        with _fastest_convolutions():
            loss, metrics = self._forward(*inputs)
            self._state.sums.add(metrics)
            scaled: Tensor = self._state.scaler.scale(loss * self._share)
            if self._capture is not None:
                self._state.sums.add_gradients(scaled)
            else:
                torch.autograd.backward(scaled)

    def eager(self, images: Tensor, labels: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean loss, and its metrics in the order of `state.METRICS`; what is right is by the labels."""
        changed, targets = self._transform(images, labels, draws)
        with autocast(self._state.recipe, self._device):
            logits = self._logits(changed)
        logits = logits.to(self._mean.dtype)
        loss: Tensor = self._loss(logits, targets)
        with torch.no_grad():
            count = torch.full((1,), len(labels), device=labels.device)
            metrics = torch.cat((loss[None] * count, correct_counts(logits, labels), count)).to(self._mean.dtype)
        return loss, metrics

    def _of_images(self, images: Tensor) -> Tensor:
        logits: Tensor = self._state.network(normalize(images, self._mean, self._std))
        return logits

    def _of_features(self, features: Tensor) -> Tensor:
        logits: Tensor = head_of(self._state.network)(features.to(self._mean.dtype))
        return logits

    def blank(self, rows: int, size: int) -> Inputs:
        """Inputs of zeros, for so many images of `size` pixels."""
        return (
            torch.zeros((rows, size, size, 3), dtype=torch.uint8, device=self._device),
            torch.zeros(rows, dtype=torch.int64, device=self._device),
            torch.zeros((rows, self._num_draws), device=self._device),
        )

    def prepare(self, shapes: Iterable[Shape]) -> int:
        """Compile and warm those of `shapes` that are not; returns how many.

        Leaves garbage in the step's sums, and something frozen or not: each step says anew what is. Nothing else of the
        training changes, the states of random generators included. Raises RunError where the compiler fails or the
        memory of the GPU does not suffice.
        """
        # The largest first: the others then fit into the memory that it took.
        new = sorted(set(shapes) - self._graphs.keys(), key=_memory, reverse=True)
        if not new:
            return 0
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch._dynamo.config.patch(recompile_limit=MAX_SHAPES):
            for shape in new:
                with self._as_in(shape):
                    self._warm(self.blank(*shape[:2]))
            # All are warmed before one is captured: eager runs cannot use the graphs' memory, and the sizes that
            # `micro_batch` auto finds leave no room for both.
            for shape in new:
                with self._as_in(shape):
                    graph = None if self._capture is None else self._capture.graph(self._run, self.blank(*shape[:2]))
                    self._graphs[shape] = graph
        return len(new)

    @contextmanager
    def _as_in(self, shape: Shape) -> Iterator[None]:
        """Freeze what is frozen for `shape`; an error says for which it was."""
        rows, size, freeze = shape
        self._state.freeze(freeze)
        with _failure_explained(rows, size, self._device):
            yield

    def _warm(self, inputs: Inputs) -> None:
        if self._capture is None:
            self._run(*inputs)
        else:
            self._capture.warm(self._run, inputs)


class _Capture:
    """Makes the graphs of all shapes on one stream and in one pool.

    One pool serves all, since only one graph runs at a time and nothing in its memory is needed after it. The allocator
    gives a block again only to the stream that it was made on, so with a stream for each shape the pool would grow by
    what each needs (pytorch #97419; torch.cuda.graph: "you should pass the same stream argument to this capture").
    Eager runs are on that stream, too: autograd remembers where a gradient was made.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, run: Callable[[*Inputs], None], inputs: Inputs) -> None:
        """Call `run` eagerly, EAGER_RUNS times."""
        with self._in_turn(), torch.cuda.stream(self._stream):
            for _ in range(EAGER_RUNS):
                run(*inputs)

    def graph(self, run: Callable[[*Inputs], None], inputs: Inputs) -> "_Graph":
        """The kernels of one `run` on `inputs`, which was warmed. What eager runs took is given back before."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on: the loader's pins memory, NCCL's looks at events.
        captured = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with self._in_turn(), _garbage_kept(), captured:
            run(*inputs)
        return _Graph(graph, inputs)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Let the capture's stream go on where the current one is, and the current one where that will be."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        yield
        current.wait_stream(self._stream)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect cycles before, and none inside: among them may be a graph of a training before (a MicroBatch holds its
    own method), and a capture fails where one is destroyed meanwhile.
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Graph:
    """A captured run, replayed on the current stream with other inputs."""

    def __init__(self, graph: torch.cuda.CUDAGraph, inputs: Inputs) -> None:
        self._graph, self._inputs = graph, inputs

    def __call__(self, *inputs: *Inputs) -> None:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()


# What errors say where memory is short that are no torch.OutOfMemoryError. That of no engine is cuDNN's where none of
# its algorithms gets the workspace that it needs; it says the same where it has none for the GPU, so what is said is
# always shown.
_NO_MEMORY = (
    "out of memory",  # CUDA, NCCL
    "can't allocate memory",  # a CPU's
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",  # of cuDNN 9
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
)


def out_of_memory(error: BaseException) -> str:
    """What `error`, or one that it came from, says of memory that does not suffice; "" where it is about another thing.

    A capture that ran out of memory ends with another error, whose context is the one that tells.
    """
    chain: BaseException | None = error
    while chain is not None:
        is_told = isinstance(chain, RuntimeError) and any(words in str(chain) for words in _NO_MEMORY)
        if is_told or isinstance(chain, torch.OutOfMemoryError):
            return _first_line(chain)
        chain = chain.__cause__ or chain.__context__
    return ""


@contextmanager
def _failure_explained(rows: int, size: int, device: torch.device) -> Iterator[None]:
    """Raise RunError where so many images of that size do not fit into memory or the compiler fails."""
    try:
        yield
    except RuntimeError as error:
        if told := out_of_memory(error):
            raise RunError(
                f"{rows} images of {size} px at once do not fit into the memory of {device}: {told}",
                "choose a smaller micro_batch (--set 'phases.*.micro_batch=auto' finds one): batch norm then sees "
                "fewer images, which changes the result",
            ) from error
        if isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise RunError(
                f"torch.compile failed for {rows} images of {size} px: {_first_line(error)}",
                "--compile off trains without it",
            ) from error
        raise


def _first_line(error: BaseException) -> str:
    """The beginning of an error's message, its class where there is none."""
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
