"""One training step against plain PyTorch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from imagesprint.loading.batch import Batch
from imagesprint.model.batch_norm import BatchNorm2d
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.optimizer import build_optimizer
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = tuple("abcdefg")
Batches = Callable[[int], list[Batch]]
RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp64",
    nesterov=True,
    weight_decay=1e-2,
    decay_norm_and_bias=False,
    label_smoothing=0.1,
    phases=(Phase((0, 1), (0.1, 0.1), "constant", 24, 8, 16),),
)


def plain_steps(recipe: Recipe, given: list[Batch], steps: int, micro_batches: int) -> nn.Module:
    """As torch's own batch norm, autograd and SGD, with running statistics moved by the mean over the micro-batches."""
    network = TrainingState(recipe, CLASSES, torch.device("cpu")).network
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    for parameter in network.parameters():
        parameter.grad = None
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0}],
        lr=0.1, momentum=recipe.momentum, nesterov=recipe.nesterov,
    )  # fmt: skip
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    mean, std = torch.tensor(recipe.mean, dtype=torch.float64), torch.tensor(recipe.std, dtype=torch.float64)
    for step in range(steps):
        optimizer.zero_grad()
        statistics = []
        for batch in given[step * micro_batches : (step + 1) * micro_batches]:
            images = ((batch.images.double() - mean) / std).permute(0, 3, 1, 2)
            loss = F.cross_entropy(network(images), batch.labels, label_smoothing=0.1)
            torch.autograd.backward(loss / micro_batches)
            statistics.append([(norm.batch_mean.clone(), norm.batch_var.clone()) for norm in norms])
        optimizer.step()
        for norm, *seen in zip(norms, *statistics, strict=True):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for running, values in zip((norm.running_mean, norm.running_var), zip(*seen, strict=True), strict=True):
                running.copy_(0.9 * running + 0.1 * torch.stack(values).mean(0))
    return network


def test_steps_equal_plain_pytorch(batches: Batches) -> None:
    given = batches(9)
    state = TrainingState(RECIPE, CLASSES, ALONE.device)
    step = TrainingStep(state, ALONE)
    feed = iter(given)
    for _ in range(3):
        step(feed, RECIPE.phases[0], 0.1)
    assert state.step == 3
    for (name, ours), theirs in zip(
        state.network.state_dict().items(), plain_steps(RECIPE, given, 3, 3).state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)


def test_metrics_are_sums_over_the_whole_step(batches: Batches) -> None:
    given = batches(3)
    state = TrainingState(RECIPE, CLASSES, ALONE.device)
    network = TrainingState(RECIPE, CLASSES, ALONE.device).network
    loss, correct1, correct5, images = TrainingStep(state, ALONE)(iter(given), RECIPE.phases[0], 0.1).tolist()
    mean, std = torch.tensor(RECIPE.mean, dtype=torch.float64), torch.tensor(RECIPE.std, dtype=torch.float64)
    logits = [network(((batch.images.double() - mean) / std).permute(0, 3, 1, 2)) for batch in given]
    labels = [batch.labels for batch in given]
    expected = F.cross_entropy(torch.cat(logits), torch.cat(labels), label_smoothing=0.1, reduction="sum")
    assert loss == pytest.approx(expected.item())
    assert images == 24
    ranks = [(row > row[label]).sum().item() for row, label in zip(torch.cat(logits), torch.cat(labels), strict=True)]
    assert (correct1, correct5) == (sum(rank < 1 for rank in ranks), sum(rank < 5 for rank in ranks))


def test_gradients_stay_views_of_one_flat_tensor_in_the_weights_layout(batches: Batches) -> None:
    state = TrainingState(RECIPE, CLASSES, ALONE.device)
    before = [parameter.grad.data_ptr() for parameter in state.network.parameters() if parameter.grad is not None]
    TrainingStep(state, ALONE)(iter(batches(3)), RECIPE.phases[0], 0.1)
    after = [parameter.grad.data_ptr() for parameter in state.network.parameters() if parameter.grad is not None]
    assert before == after
    for parameter in state.network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


class _HostReads(TorchDispatchMode):
    """Notes the operations whose result the host must wait for."""

    READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "allclose", "masked_select", "unique2")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__.strip("_") in {name.strip("_") for name in self.READS}:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


READING_NOTHING = [
    {"precision": "bf16", "ema_decay": 0.9},
    {"precision": "fp16", "loss_scale": 8.0},
    {"precision": "bf16", "optimizer": "adamw", "nesterov": False, "loss": "bce", "class_weights": "balanced"},
    {"precision": "bf16", "optimizer": "lars", "loss": "focal"},
    {"precision": "bf16", "optimizer": "muon", "layer_decay": 0.5, "class_weights": "sqrt"},
]


@pytest.mark.parametrize("changes", READING_NOTHING, ids=str)
def test_a_step_reads_nothing_back_to_the_host(batches: Batches, changes: dict[str, Any]) -> None:
    state = TrainingState(replace(RECIPE, **changes), CLASSES, ALONE.device)
    step, feed = TrainingStep(state, ALONE), iter(batches(6))
    with _HostReads() as reads:
        step(feed, RECIPE.phases[0], 0.1)
        step(feed, RECIPE.phases[0], 0.1)
        assert reads.found == []
        state.sums.metrics[0].item()
        assert len(reads.found) == 1  # it would have been found


def test_the_moving_average_follows_the_weights(batches: Batches) -> None:
    recipe = replace(RECIPE, ema_decay=0.75)
    state = TrainingState(recipe, CLASSES, ALONE.device)
    start = {key: value.clone() for key, value in state.network.state_dict().items()}
    TrainingStep(state, ALONE)(iter(batches(3)), recipe.phases[0], 0.1)
    for key, value in state.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(state.evaluated_weights()[key], 0.75 * start[key] + 0.25 * value)


@pytest.mark.parametrize(("precision", "loss_scale"), [("bf16", 0.0), ("fp16", 256.0), ("fp16", 0.0)])
def test_lower_precision_stays_near_fp32(batches: Batches, precision: str, loss_scale: float) -> None:
    states = []
    for name, scale in (("fp32", 0.0), (precision, loss_scale)):
        state = TrainingState(replace(RECIPE, precision=name, loss_scale=scale), CLASSES, ALONE.device)
        TrainingStep(state, ALONE)(iter(batches(3)), RECIPE.phases[0], 0.01)
        states.append(state)
    start = TrainingState(replace(RECIPE, precision="fp32"), CLASSES, ALONE.device).network
    weights = [network.get_parameter("fc.weight") for network in (start, states[0].network, states[1].network)]
    moved, apart = (weights[1] - weights[0]).norm(), (weights[2] - weights[1]).norm()
    assert 0 < apart < 0.1 * moved


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_dynamic_scale(batches: Batches) -> None:
    recipe = replace(RECIPE, precision="fp16")
    state = TrainingState(recipe, CLASSES, ALONE.device)
    before = state.network.get_parameter("fc.weight").clone()
    scale = state.scaler.get_scale() if state.scaler.get_scale() > 1 else 65536.0
    batch = batches(3)
    with torch.no_grad():
        state.network.get_parameter("layer3.2.conv2.weight").fill_(float("inf"))
    TrainingStep(state, ALONE)(iter(batch), recipe.phases[0], 0.1)
    assert torch.equal(state.network.get_parameter("fc.weight"), before)
    assert state.scaler.get_scale() < scale


def use_sgd(state: TrainingState, fused: bool) -> None:
    """Have the state's optimizer work as torch makes it on a GPU, or as it does on a CPU."""
    assert isinstance(state.optimizer, torch.optim.SGD)
    for group in state.optimizer.param_groups:
        group["fused"] = fused
    state.optimizer._step_supports_amp_scaling = fused
    state.optimizer._need_device_dtype_check_for_fused = fused


@pytest.fixture
def undefined_memory_is_nan() -> Iterator[None]:
    """Fill what torch leaves undefined with NaN, where it might else be zero by chance."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("undefined_memory_is_nan")
@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_in_the_very_first_step_leaves_no_trace(batches: Batches, fused: bool) -> None:
    recipe = replace(RECIPE, precision="fp16", ema_decay=0.5)
    states = [TrainingState(recipe, CLASSES, ALONE.device) for _ in range(2)]
    given = batches(6)
    for state, overflows in zip(states, (True, False), strict=True):
        use_sgd(state, fused)
        before = state.network.get_parameter("fc.weight").clone()
        if overflows:
            state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
            TrainingStep(state, ALONE)(iter(given[:3]), recipe.phases[0], 0.1)
            assert torch.equal(state.network.get_parameter("fc.weight"), before)
            assert state.scaler.get_scale() == 2.0**119
        state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for _ in range(2):
            TrainingStep(state, ALONE)(iter(given[3:]), recipe.phases[0], 0.1)
    for (name, after), other in zip(states[0].network.named_parameters(), states[1].network.parameters(), strict=True):
        assert torch.equal(after, other), name
        assert after.isfinite().all(), name


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_that_is_there_from_the_start_gives_torchs_bits(fused: bool, nesterov: bool) -> None:
    def bits(tensor: torch.Tensor) -> list[int]:
        return tensor.detach().view(torch.int32).flatten().tolist()

    ours, theirs = nn.Linear(3, 64), nn.Linear(3, 64)
    optimizer = build_optimizer(replace(RECIPE, nesterov=nesterov, weight_decay=0.0), ours)
    plain = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=RECIPE.momentum, nesterov=nesterov, fused=fused)
    for group in optimizer.param_groups:
        group |= {"fused": fused, "lr": 0.1}
    odd = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, float("inf"), float("-inf"), float("nan")])
    draw = torch.Generator().manual_seed(0)
    gradients = [
        odd[torch.randint(len(odd), (64, 3), generator=draw)],
        torch.randn(64, 3, generator=draw),
    ]
    with torch.no_grad():
        ours.weight.copy_(odd[torch.randint(4, (64, 3), generator=draw)])  # a step of −0 tells on weights of −0 alone
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(one)
    for gradient in gradients:
        for module, sgd in ((ours, optimizer), (theirs, plain)):
            module.weight.grad, module.bias.grad = gradient.clone(), gradient[:, 0].clone()
            sgd.step()
        assert bits(ours.weight) == bits(theirs.weight)
        assert bits(ours.bias) == bits(theirs.bias)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert bits(optimizer.state[mine]["momentum_buffer"]) == bits(plain.state[other]["momentum_buffer"])
