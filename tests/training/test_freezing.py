"""What a phase freezes does not move by a bit and costs no backward pass; the rest trains as plain PyTorch does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from imagesprint.errors import RecipeError
from imagesprint.loading.batch import Batch
from imagesprint.model.batch_norm import batch_norms
from imagesprint.model.depths import frozen_names
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = tuple("abcdefg")
Batches = Callable[[int], list[Batch]]
FROZEN = Phase((0, 1), (0.1, 0.1), "constant", 16, 8, 16, freeze="stages 1")
THAWED = Phase((1, 2), (0.1, 0.1), "constant", 16, 8, 16)
RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp64",
    nesterov=True,
    weight_decay=1e-2,
    decay_norm_and_bias=False,
    ema_decay=0.9,
    phases=(FROZEN, THAWED),
)


def begun(recipe: Recipe) -> tuple[TrainingState, dict[str, Tensor]]:
    """The state before the first step, and copies of its weights; its statistics are not those of fresh norms."""
    state = TrainingState(recipe, CLASSES, ALONE.device)
    generator = torch.Generator().manual_seed(1)
    for norm in batch_norms(state.network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(torch.rand(norm.num_features, generator=generator))
        norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
    for key, value in state.average.items():
        value.copy_(state.network.state_dict()[key])
    return state, {key: value.clone() for key, value in state.network.state_dict().items()}


def floats(state: TrainingState) -> dict[str, Tensor]:
    """Weights and statistics: all that training moves."""
    return {key: value for key, value in state.network.state_dict().items() if value.is_floating_point()}


def momentum(state: TrainingState, name: str) -> Tensor:
    buffer: Tensor = state.optimizer.state[state.network.get_parameter(name)]["momentum_buffer"]
    return buffer


@pytest.mark.parametrize("freeze_norm", ["none", "frozen", "all"])
@pytest.mark.parametrize("freeze", ["backbone", "stages 1"])
def test_frozen_tensors_keep_their_bits(batches: Batches, freeze: str, freeze_norm: str) -> None:
    phase = replace(FROZEN, freeze=freeze)
    state, before = begun(replace(RECIPE, phases=(phase, THAWED), freeze_norm=freeze_norm))
    names = frozen_names(state.network, freeze)
    assert "fc.weight" not in names
    assert ("layer2.0.conv1.weight" in names) == (freeze == "backbone")
    step, feed = TrainingStep(state, ALONE), iter(batches(8))
    for _ in range(2):
        step(feed, phase, 0.1)
    for key, value in floats(state).items():
        if key in names:
            assert torch.equal(value, before[key]), key
            assert not momentum(state, key).any(), key
            assert state.network.get_parameter(key).grad is None
        elif key.endswith(("running_mean", "running_var")):
            of_frozen = key.rpartition(".")[0] + ".weight" in names
            stands_still = freeze_norm == "all" or (freeze_norm == "frozen" and of_frozen)
            assert torch.equal(value, before[key]) == stands_still, key
        else:
            assert not torch.equal(value, before[key]), key
        assert torch.equal(state.average[key], before[key]) == torch.equal(value, before[key]), key

    middle = {key: value.clone() for key, value in floats(state).items()}
    for _ in range(2):
        step(feed, THAWED, 0.1)
    for key, value in floats(state).items():
        stands_still = freeze_norm == "all" and key.endswith(("running_mean", "running_var"))
        assert torch.equal(value, middle[key]) == stands_still, key
    addresses = [parameter.grad.data_ptr() for parameter in state.network.parameters() if parameter.grad is not None]
    assert sorted(addresses) == [gradient.data_ptr() for gradient in state.sums.gradients]
    assert len(addresses) == len(list(state.network.parameters()))


@pytest.mark.parametrize("freeze_norm", ["none", "frozen", "all"])
def test_the_rest_trains_as_plain_pytorch_does(batches: Batches, freeze_norm: str) -> None:
    recipe = replace(RECIPE, freeze_norm=freeze_norm)
    state, _ = begun(recipe)
    given = batches(4)
    step, feed = TrainingStep(state, ALONE), iter(given)
    for _ in range(2):
        step(feed, FROZEN, 0.1)
    network = begun(recipe)[0].network
    frozen = frozen_names(network, "stages 1")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
        parameter.grad = None
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    held = {"none": set[bool](), "frozen": {False}, "all": {False, True}}[freeze_norm]
    norms = [norm for norm in batch_norms(network) if norm.weight.requires_grad in held]
    for norm in norms:
        norm.eval()
    assert len(norms) == {"none": 0, "frozen": 7, "all": 21}[freeze_norm]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": 1e-2},
        {"params": [parameter for parameter in trained if parameter.ndim == 1], "weight_decay": 0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    mean, std = torch.tensor(recipe.mean, dtype=torch.float64), torch.tensor(recipe.std, dtype=torch.float64)
    for start in (0, 2):
        optimizer.zero_grad()
        for batch in given[start : start + 2]:
            images = ((batch.images.double() - mean) / std).permute(0, 3, 1, 2)
            torch.autograd.backward(F.cross_entropy(network(images), batch.labels) / 2)
        optimizer.step()
    for (name, ours), theirs in zip(state.network.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)


class _Convolutions(TorchDispatchMode):
    """Counts the backward passes of convolutions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ == "convolution_backward"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("freeze", "count"), [("backbone", 0), ("stages 2", 7), ("none", 21)])
def test_no_gradient_is_computed_below_the_first_trained_layer(batches: Batches, freeze: str, count: int) -> None:
    phase = replace(FROZEN, freeze=freeze, batch_size=8)
    state, _ = begun(replace(RECIPE, phases=(phase,)))
    with _Convolutions() as convolutions:
        TrainingStep(state, ALONE)(iter(batches(1)), phase, 0.1)
    assert convolutions.count == count


def test_a_network_has_only_so_many_stages() -> None:
    recipe = replace(RECIPE, phases=(replace(FROZEN, freeze="stages 4"),))
    with pytest.raises(RecipeError, match="freeze: stages 4, but the model has 3") as caught:
        TrainingState(recipe, CLASSES, ALONE.device)
    assert "freeze=backbone" in caught.value.hint
