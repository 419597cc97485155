"""The compiled step on the CPU: it agrees with the eager one, and getting it ready changes nothing."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from imagesprint.errors import RunError
from imagesprint.loading.batch import Batch
from imagesprint.model import resnet
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = tuple("abcdefg")
RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp64",
    ema_decay=0.9,
    label_smoothing=0.1,
    freeze_norm="none",  # so that nothing but which tensors need gradients tells the code of one phase from another's
    phases=(
        Phase((0, 1), (0.1, 0.1), "constant", 16, 8, 16, freeze="backbone"),
        Phase((1, 2), (0.1, 0.1), "constant", 32, 8, 16),
        Phase((2, 3), (0.1, 0.1), "constant", 16, 8, 16),
    ),
)


def compare(ours: TrainingState, theirs: TrainingState, rtol: float, atol: float) -> None:
    """Whether all that is carried from step to step agrees."""
    pair = [state.checkpoint(1, "data", "native") for state in (ours, theirs)]
    for part in ("model", "ema", "optimizer", "scaler", "step"):
        torch.testing.assert_close(pair[0][part], pair[1][part], rtol=rtol, atol=atol)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_and_eager_agree(batches: Callable[[int], list[Batch]], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = resnet.Architecture((1,), bottleneck=False, widths=(8,), small_stem=True)
    monkeypatch.setitem(resnet.ARCHITECTURES, "resnet20", tiny)  # the compiler takes a second a layer
    eager, compiled = (TrainingState(RECIPE, CLASSES, ALONE.device) for _ in range(2))
    step = TrainingStep(compiled, ALONE, compiled=True)
    generator = torch.get_rng_state()
    assert step.prepare(RECIPE.phases) == 2  # two phases of one shape, and one of it with frozen parts
    assert step.prepare(RECIPE.phases) == 0
    compare(compiled, eager, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    feeds = iter(batches(8)), iter(batches(8))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for phase in RECIPE.phases:  # another share of the step for each image, the same code
            sums = step(feeds[0], phase, 0.1)
            torch.testing.assert_close(sums, TrainingStep(eager, ALONE)(feeds[1], phase, 0.1), rtol=1e-9, atol=0)
    compare(compiled, eager, rtol=1e-8, atol=1e-10)


def test_what_cannot_be_compiled_is_said_with_a_way_out() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :7] if images.sum() > 0 else images

    state = TrainingState(replace(RECIPE, precision="fp32"), CLASSES, ALONE.device)
    state.network = Branching()
    with pytest.raises(RunError, match="8 images of 16 px") as caught:
        TrainingStep(state, ALONE, compiled=True).prepare(RECIPE.phases)
    assert "--compile off" in caught.value.hint


def test_eager_needs_no_preparing() -> None:
    assert TrainingStep(TrainingState(RECIPE, CLASSES, ALONE.device), ALONE).prepare(RECIPE.phases) == 0
