"""What is done where a GPU's memory is short, by a stand-in for the GPU: captures share theirs, trials give it back."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from imagesprint.console import Console
from imagesprint.errors import RunError
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training import micro_batch_size, step
from imagesprint.training.micro_batch_size import settle_micro_batches
from imagesprint.training.state import TrainingState
from imagesprint.training.step import EAGER_RUNS, MicroBatch, TrainingStep, out_of_memory

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = tuple("abcdefg")
PHASE = Phase((0, 1), (0.1, 0.1), "constant", 32, 8, 16)
RECIPE = Recipe(name="test", model="resnet20", precision="fp32", phases=(PHASE, replace(PHASE, image_size=24)))
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.OutOfMemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.79 GiB total capacity)"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at another call."),
    RuntimeError("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation after trying 6 plans."),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
]
OTHERS = [
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
    ValueError("out of memory"),
]


def in_capture(error: RuntimeError) -> RuntimeError:
    """As the end of a capture in which `error` came raises it."""
    ending = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    ending.__context__ = error
    return ending


@pytest.mark.parametrize("error", [*SHORT, *map(in_capture, SHORT)], ids=repr)
def test_memory_that_is_short_is_known_by_each_of_its_names(error: RuntimeError) -> None:
    told = out_of_memory(error)
    assert told in str(error.__context__ or error) or told == "OutOfMemoryError"
    assert told
    assert "\n" not in told


@pytest.mark.parametrize("error", [*OTHERS, in_capture(RuntimeError("invalid argument"))], ids=repr)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert out_of_memory(error) == ""


@pytest.mark.parametrize("error", [*SHORT, *OTHERS], ids=repr)
def test_a_shape_that_does_not_fit_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> None:
        raise error

    monkeypatch.setattr(MicroBatch, "_run", run)
    prepare = TrainingStep(TrainingState(RECIPE, CLASSES, ALONE.device), ALONE, compiled=True).prepare
    with pytest.raises(RunError if error in SHORT else type(error)) as caught:
        prepare(RECIPE.phases)
    if error in SHORT:
        assert str(caught.value).startswith("8 images of 24 px at once do not fit into the memory of cpu: ")
        assert "micro_batch" in getattr(caught.value, "hint")  # noqa: B009
    else:
        assert caught.value is error


class Gpu:
    """Stands in for what MicroBatch needs of torch.cuda; `events` says what was done on which stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, object, object]] = []
        self.current: object = self
        self.pools = 0
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: Waiting())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Waiting())
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Replayed)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self.pool)

    def pool(self) -> int:
        self.pools += 1
        return self.pools

    @contextmanager
    def stream(self, stream: object, pool: object = None) -> Iterator[None]:
        self.current, before = stream, self.current
        self.events.append(("eager" if pool is None else "capture", stream, pool))
        yield
        self.current = before

    def graph(self, graph: object, pool: object, stream: object, capture_error_mode: str) -> Any:
        assert isinstance(graph, Replayed)
        assert capture_error_mode == "thread_local"
        return self.stream(stream, pool)


class Waiting:
    def wait_stream(self, other: object) -> None:
        assert isinstance(other, Waiting)


class Replayed:
    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


def test_all_shapes_are_captured_on_one_stream_in_one_pool_once_all_are_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    micro_batch = MicroBatch(TrainingState(RECIPE, CLASSES, ALONE.device), ALONE.device, compiled=True)
    large, middle, small, late = ((*sizes, "none") for sizes in ((8, 24), (8, 16), (4, 16), (2, 16)))
    runs: list[tuple[object, tuple[int, int, str]]] = []
    monkeypatch.setattr(micro_batch, "_run", lambda images, *_: runs.append((gpu.current, (*images.shape[:2], "none"))))
    monkeypatch.setattr(micro_batch, "_capture", step._Capture(ALONE.device))
    assert micro_batch.prepare([middle, large, small, large]) == 3
    assert micro_batch.prepare([middle, late]) == 1  # one that comes later, too
    kinds, streams, pools = zip(*gpu.events, strict=True)
    assert kinds == ("eager",) * 3 + ("capture",) * 3 + ("eager", "capture")
    assert len(set(streams)) == 1
    assert {pool for kind, pool in zip(kinds, pools, strict=True) if kind == "capture"} == {1}
    assert {stream for stream, _ in runs} == set(streams)
    largest_first = [large, middle, small]
    warmed = [shape for shape in largest_first for _ in range(EAGER_RUNS)]
    assert [shape for _, shape in runs] == [*warmed, *largest_first, *[late] * (EAGER_RUNS + 1)]

    count = len(runs)
    micro_batch(*micro_batch.blank(8, 24))
    assert len(runs) == count  # replayed, not run
    graphs = {shape: graph._graph for shape, graph in micro_batch._graphs.items() if graph is not None}
    assert {shape: graph.replays for shape, graph in graphs.items()} == {  # type: ignore[attr-defined]
        large: 1, middle: 0, small: 0, late: 0,
    }  # fmt: skip


def dead_cycle() -> "weakref.ref[Tensor]":
    """A tensor that only collecting frees, as those of autograd's nodes and of functions may be."""
    tensor = torch.zeros(1)
    cycle: list[object] = [tensor]
    cycle.append(cycle)
    return weakref.ref(tensor)


def test_garbage_is_collected_before_a_capture_and_not_within(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(monkeypatch)
    before, inside = dead_cycle(), list["weakref.ref[Tensor]"]()

    def run() -> None:
        assert before() is None
        inside.append(dead_cycle())
        kept = [[number] for number in range(50_000)]  # so many would have it collected
        assert len(kept) == 50_000
        assert inside[0]() is not None

    step._Capture(ALONE.device).graph(run, ())  # type: ignore[arg-type]
    assert gc.isenabled()
    gc.collect()
    assert inside[0]() is None


class Small:
    """Stands in for a GPU's MicroBatch: `room` pixels fit, more are an `error`; a `tensor` is alive as long as it."""

    room = 9 * 16**2
    error: Callable[[], Exception] = staticmethod(lambda: torch.OutOfMemoryError("no room"))
    held: "list[weakref.ref[Tensor]]"

    def __init__(self, *_: Any, compiled: bool) -> None:
        assert not compiled

    def blank(self, rows: int, size: int) -> tuple[int, int]:
        return rows, size

    def __call__(self, rows: int, size: int) -> None:
        self.held.append(dead_cycle())
        if rows * size**2 > self.room:
            raise self.error()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Small]]:
    """As if on a GPU, where each call of empty_cache sees that nothing of the pass before is alive."""
    Small.held = []
    fractions: list[float] = []

    def empty_cache() -> None:
        assert fractions[-1] == 1
        assert Small.held
        assert all(tensor() is None for tensor in Small.held)

    monkeypatch.setattr(micro_batch_size, "MicroBatch", Small)
    frozen = SimpleNamespace(freeze=lambda _: None)
    monkeypatch.setattr(micro_batch_size, "TrainingState", lambda *_: frozen)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: fractions.append(share))
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(Ranks, "gather", lambda _, value: [value])
    gc.disable()  # so that nothing but the trial itself collects the cycles
    gc.freeze()  # and that does not look through all that was there before, torch above all
    yield Small
    gc.unfreeze()
    gc.enable()


def settle(recipe: Recipe) -> list[int]:
    auto = replace(recipe, phases=tuple(replace(phase, micro_batch=0) for phase in recipe.phases))
    ranks = replace(ALONE, device=torch.device("cuda", 0))
    return [phase.micro_batch for phase in settle_micro_batches(auto, None, CLASSES, ranks, Console(quiet=True)).phases]


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_a_trial_goes_on_to_smaller_sizes_and_gives_memory_back(
    small: type[Small], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "error", staticmethod(lambda: type(error)(*error.args)))
    assert settle(RECIPE) == [8, 4]
    assert len(small.held) == 3 + 4  # 32, 16, 8 of 16 px; 32, 16, 8, 4 of 24 px


def test_a_trial_that_never_fits_says_why(small: type[Small], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "room", 0)
    with pytest.raises(RunError, match=r"not even one image of 16 px fits .*: no room"):
        settle(RECIPE)


def test_another_error_ends_the_trial(small: type[Small], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "error", staticmethod(lambda: RuntimeError("an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal"):
        settle(RECIPE)
