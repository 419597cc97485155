"""What only a GPU can show: graphs accumulate as eager steps do, nothing waits for the host, copies run ahead.

`python -m pytest -m gpu` on any machine with CUDA; skipped elsewhere.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from imagesprint.loading.batch import Batch
from imagesprint.model.resnet import ARCHITECTURES, Architecture
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.prefetch import on_device
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

CLASSES = tuple("abcdefg")
RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp64",
    ema_decay=0.9,
    nesterov=True,
    phases=(
        Phase((0, 1), (0.1, 0.1), "constant", 32, 8, 16),
        Phase((1, 2), (0.1, 0.1), "constant", 16, 8, 16),
    ),
)
Batches = Callable[[int], list[Batch]]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """The GPU, for a network of two blocks, soon compiled: in half precision with the same kernels as a ResNet-50."""
    monkeypatch.setitem(ARCHITECTURES, "resnet20", Architecture((1, 1), bottleneck=True, widths=(64, 128)))
    return Ranks(0, 1, 0, 1, torch.device("cuda", 0))


def on_gpu(given: list[Batch], gpu: Ranks) -> Iterator[Batch]:
    names = ("images", "labels", "draws")  # that a step moves there where they are not
    return iter([replace(batch, **{name: getattr(batch, name).to(gpu.device) for name in names}) for batch in given])


def test_four_micro_batches_under_graphs_equal_eager_ones(gpu: Ranks, batches: Batches) -> None:
    """Two steps of four micro-batches and one of two, of one shape: gradients add up, and shares differ."""
    states = []
    for compiled in (False, True):
        state = TrainingState(RECIPE, CLASSES, gpu.device)
        step, feed = TrainingStep(state, gpu, compiled), on_gpu(batches(10), gpu)
        step.prepare(RECIPE.phases)
        sums = [step(feed, RECIPE.phases[index], 0.1).clone() for index in (0, 0, 1)]
        states.append((sums, [gradient.clone() for gradient in state.sums.gradients], state))
    (theirs, their_gradients, eager), (ours, our_gradients, graphed) = states
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(our_gradients, their_gradients, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(graphed.evaluated_weights(), eager.evaluated_weights(), rtol=1e-8, atol=1e-10)


def test_preparing_changes_nothing(gpu: Ranks) -> None:
    state = TrainingState(replace(RECIPE, precision="bf16"), CLASSES, gpu.device)
    before = copy.deepcopy(state.checkpoint(1, "data", "native"))  # whose tensors are the training's own
    generator = torch.cuda.get_rng_state(gpu.device)
    assert TrainingStep(state, gpu, compiled=True).prepare(RECIPE.phases) == 1
    after = state.checkpoint(1, "data", "native")
    for part in ("model", "ema", "optimizer"):
        torch.testing.assert_close(after[part], before[part], rtol=0, atol=0)
    assert torch.equal(torch.cuda.get_rng_state(gpu.device), generator)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("precision", "loss_scale"), [("bf16", 0.0), ("fp16", 128.0), ("fp16", 0.0)])
def test_a_step_never_waits_for_the_gpu(
    gpu: Ranks, batches: Batches, precision: str, loss_scale: float, compiled: bool
) -> None:
    state = TrainingState(replace(RECIPE, precision=precision, loss_scale=loss_scale), CLASSES, gpu.device)
    assert state.not_fused is None
    step, feed = TrainingStep(state, gpu, compiled), on_gpu(batches(12), gpu)
    step(feed, RECIPE.phases[0], 0.1)  # what is made once may wait: momentum, the loss scale, graphs
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(feed, RECIPE.phases[0], 0.1)
        step(feed, RECIPE.phases[0], 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batches_arrive_whole_although_their_memory_is_filled_anew(gpu: Ranks) -> None:
    pinned = torch.empty((2, 64, 64, 64, 3), dtype=torch.uint8, pin_memory=True)

    def loader() -> Iterator[Batch]:
        for number in range(12):
            images = pinned[number % 2].fill_(number)
            labels = torch.full((64,), number).pin_memory()
            yield Batch(images, labels, labels, labels > 0, number, torch.empty((64, 0)))
            images.fill_(255)  # valid until the next one is asked for, and no longer

    for number, batch in enumerate(on_device(loader(), gpu.device)):
        torch.cuda._sleep(10_000_000)  # type: ignore[no-untyped-call] # the GPU is behind the host
        seen = torch.stack((batch.images.min(), batch.images.max(), batch.labels[0])).tolist()
        assert (seen, batch.step) == ([number] * 3, number)
