"""Batch transforms, losses and optimizers by name: with all transforms, restarts and the compiler change nothing.

What each transform does is tested beside its module, that ranks change nothing in test_ranks.py.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.images.draws import sample_floats
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.model import resnet
from imagesprint.recipes.recipe import LOSS_NAMES, OPTIMIZER_NAMES, TRANSFORM_DRAWS, Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.losses import LOSSES
from imagesprint.training.optimizer import OPTIMIZERS
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep
from imagesprint.training.transforms import TRANSFORMS, transforms_of

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = tuple("abcdefg")
RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp64",
    optimizer="muon",
    nesterov=True,
    label_smoothing=0.1,
    augment=("pad 2", "trivial", "jitter 0.3", "grey 0.2", "mixup 0.2", "cutmix 1", "erasing 0.5"),
    phases=(Phase((0, 2), (0.1, 0.1), "constant", 16, 8, 12),),
)
TINY = resnet.Architecture((1,), bottleneck=False, widths=(8,), small_stem=True)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes resnet20 a tiny network."""
    monkeypatch.setitem(resnet.ARCHITECTURES, "resnet20", TINY)


def micro_batches(recipe: Recipe, steps: range) -> list[Batch]:
    """Micro-batches of noise, two a step, with the recipe's draws as the loader makes them."""
    found = []
    for step in steps:
        for index in range(2):
            ids = np.arange(8) + 16 * step + 8 * index
            generator = np.random.default_rng(int(ids[0]))
            found.append(
                Batch(
                    images=torch.from_numpy(generator.integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)),
                    labels=torch.from_numpy(generator.integers(0, len(CLASSES), 8)),
                    sample_ids=torch.from_numpy(ids),
                    mask=torch.ones(8, dtype=torch.bool),
                    step=step,
                    draws=torch.from_numpy(sample_floats(recipe.seed, 0, ids, recipe.draws)),
                )
            )
    return found


def trained(recipe: Recipe, steps: range, compiled: bool = False, held: Path | None = None) -> Any:
    """The state after `steps`, begun anew or from the checkpoint `held`, and the metrics of each step."""
    state = TrainingState(recipe, CLASSES, ALONE.device)
    if held is not None:
        state.restore(read_training_checkpoint(held), "data", "native", force_decoder=False)
    step = TrainingStep(state, ALONE, compiled)
    feed = iter(micro_batches(recipe, steps))
    return state, [step(feed, recipe.phases[0], 0.1).tolist() for _ in steps]


def assert_same(state: TrainingState, other: dict[str, Tensor]) -> None:
    for key, value in state.network.state_dict().items():
        assert torch.equal(value, other[key]), key


@pytest.mark.usefixtures("registered")
def test_resumed_and_compiled_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, metrics = trained(RECIPE, range(4))
    half, _ = trained(RECIPE, range(2))
    torch.save(half.checkpoint(100, "data", "native"), tmp_path / "half.pt")
    resumed, rest = trained(RECIPE, range(2, 4), held=tmp_path / "half.pt")
    assert rest == metrics[2:]
    assert_same(resumed, whole.network.state_dict())
    plain, other = trained(replace(RECIPE, augment=()), range(4)), trained(replace(RECIPE, seed=1), range(4))
    assert metrics not in (plain[1], other[1])  # the transforms and their draws did change something
    # All of torch.compile but the C++ compiler, which takes a second a layer
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled, _ = trained(RECIPE, range(2, 4), compiled=True, held=tmp_path / "half.pt")
    torch.testing.assert_close(compiled.network.state_dict(), whole.network.state_dict(), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("registered")
def test_a_step_counts_what_is_right_by_the_labels_and_the_loss_by_the_mixed_targets() -> None:
    recipe = replace(RECIPE, augment=("mixup 1",))
    state = TrainingState(recipe, CLASSES, ALONE.device)
    network = TrainingState(recipe, CLASSES, ALONE.device).network
    given = micro_batches(recipe, range(1))
    loss, correct1, _, images = TrainingStep(state, ALONE)(iter(given), recipe.phases[0], 0.1).tolist()
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (recipe.mean, recipe.std))
    expected, right = 0.0, 0
    for batch in given:
        pixels, targets = batch.images.double(), torch.eye(len(CLASSES), dtype=torch.float64)[batch.labels]
        share = ((batch.draws * 2048).floor().double() + 0.5) / 4096  # Beta(1, 1) is uniform
        pixels = pixels + share[:, :, None, None] * (pixels.roll(1, 0) - pixels)
        targets = targets + share * (targets.roll(1, 0) - targets)
        logits = network(((pixels - mean) / std).permute(0, 3, 1, 2))
        smooth = 0.9 * targets + 0.1 / len(CLASSES)
        expected -= (smooth * logits.log_softmax(1)).sum().item()  # the formula of cross-entropy with soft targets
        right += int((logits.argmax(1) == batch.labels).sum())
    assert loss == pytest.approx(expected, rel=1e-12)
    assert (correct1, images) == (right, 16)


def test_the_loader_makes_the_draws_that_the_recipe_takes(photo_root: Path, tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, augment=("erasing 0.5", "mixup 0.2"))
    with Loader(photo_root, recipe, threads=1, end_step=1) as loader:
        for batch in loader:
            drawn = sample_floats(recipe.seed, 0, batch.sample_ids.numpy(), ((18, 5), (16, 1)))
            assert batch.draws.tolist() == drawn.tolist()


def test_without_transforms_images_and_labels_are_left_alone() -> None:
    images, labels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([1, 0])
    made = transforms_of(replace(RECIPE, augment=()), 2, ALONE.device)(images, labels, torch.empty(2, 0))
    assert made[0] is images
    assert made[1] is labels


def test_the_tables_have_the_names_that_recipes_know() -> None:
    assert tuple(OPTIMIZERS) == OPTIMIZER_NAMES
    assert tuple(LOSSES) == LOSS_NAMES
    assert TRANSFORMS.keys() == TRANSFORM_DRAWS.keys()
    purposes = [row.purpose for row in TRANSFORM_DRAWS.values()]
    assert len(set(purposes)) == len(purposes)
    assert all(purpose >= 16 for purpose in purposes)
