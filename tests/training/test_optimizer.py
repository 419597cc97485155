"""Every optimizer by its name: resumed to the bit, frozen parameters, steps that fp16 skips; AdamW against torch's."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.errors import CheckpointError
from imagesprint.loading.batch import Batch
from imagesprint.model import resnet
from imagesprint.recipes.recipe import OPTIMIZER_NAMES, Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.optimizer import build_optimizer, l2_loss, set_learning_rate
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = tuple("abcdefg")
Batches = Callable[[int], list[Batch]]
RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp32",
    weight_decay=1e-2,
    decay_norm_and_bias=False,
    layer_decay=0.5,
    rest_lr=2.0,
    phases=(Phase((0, 4), (0.1, 0.1), "constant", 8, 8, 16),),
)
EACH = [replace(RECIPE, optimizer=name) for name in OPTIMIZER_NAMES]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = resnet.Architecture((1, 1), bottleneck=False, widths=(8, 16), small_stem=True)
    monkeypatch.setitem(resnet.ARCHITECTURES, "resnet20", tiny)


def tensors(state: TrainingState) -> dict[str, Tensor]:
    """All weights, statistics and the optimizer's state, by name."""
    rows = state.optimizer.state_dict()["state"]
    of_optimizer = {f"{number}.{key}": value for number, row in rows.items() for key, value in row.items()}
    return {**state.network.state_dict(), **of_optimizer}


def trained(recipe: Recipe, given: list[Batch], held: Path | None = None) -> TrainingState:
    state = TrainingState(recipe, CLASSES, ALONE.device)
    if held is not None:
        state.restore(read_training_checkpoint(held), "data", "native", force_decoder=False)
    step, feed = TrainingStep(state, ALONE), iter(given)
    for _ in given:
        step(feed, recipe.phases[0], 0.1)
    return state


def by_name(recipe: Recipe) -> str:
    return recipe.optimizer


@pytest.mark.parametrize("recipe", EACH, ids=by_name)
def test_resumed_it_is_the_same_to_the_bit(recipe: Recipe, batches: Batches, tmp_path: Path) -> None:
    given = batches(4)
    whole, half = trained(recipe, given), trained(recipe, given[:2])
    torch.save(half.checkpoint(100, "data", "native"), tmp_path / "half.pt")
    resumed = trained(recipe, given[2:], held=tmp_path / "half.pt")
    found, wanted = tensors(resumed), tensors(whole)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("recipe", EACH, ids=by_name)
def test_what_has_no_gradient_stays_as_it_is(recipe: Recipe) -> None:
    state = TrainingState(recipe, CLASSES, ALONE.device)
    for name, parameter in state.network.named_parameters():
        parameter.grad = torch.ones_like(parameter) if name.startswith("fc.") else None
    before = copy.deepcopy(tensors(state))
    set_learning_rate(state.optimizer, 0.1)
    state.optimizer.step()
    numbers = {parameter: number for number, parameter in enumerate(_numbered(state.optimizer))}
    head = {numbers[parameter] for parameter in state.network.get_submodule("fc").parameters()}
    for key, value in tensors(state).items():
        moves = key.startswith("fc.") or key.partition(".")[0] in map(str, head)
        assert torch.equal(before[key], value) != moves, key


def _numbered(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("recipe", EACH, ids=by_name)
def test_a_step_that_overflows_leaves_no_trace(recipe: Recipe, batches: Batches) -> None:
    recipe = replace(recipe, precision="fp16")
    state, other = (TrainingState(recipe, CLASSES, ALONE.device) for _ in range(2))
    given, before = batches(3), copy.deepcopy(tensors(state))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    TrainingStep(state, ALONE)(iter(given[:1]), recipe.phases[0], 0.1)
    assert state.scaler.get_scale() == 2.0**119
    statistics = ("running_mean", "running_var")
    for key, value in tensors(state).items():
        assert key.endswith(statistics) or torch.equal(before[key], value), key
    state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    other.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for each in (state, other):
        step, feed = TrainingStep(each, ALONE), iter(given[1:])
        for _ in range(2):
            step(feed, recipe.phases[0], 0.1)
    wanted = tensors(other)
    for key, value in tensors(state).items():
        assert key.endswith(statistics) or torch.equal(wanted[key], value), key


def test_adamw_is_torchs() -> None:
    recipe = replace(RECIPE, optimizer="adamw", momentum=0.8, beta2=0.95, layer_decay=1.0)
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(recipe, ours)
    groups = [
        {"params": [theirs[0].weight], "weight_decay": 1e-2},
        {"params": [theirs[0].bias, *theirs[1].parameters()], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, betas=(0.8, 0.95), foreach=False)
    draw = torch.Generator().manual_seed(0)
    for lr in (0.1, 0.3, 0.02):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=draw, dtype=torch.float64)
            other.grad = mine.grad.clone()
        set_learning_rate(optimizer, lr)
        for group in plain.param_groups:
            group["lr"] = lr
        optimizer.step()
        plain.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_every_key_of_the_state_is_checked(batches: Batches, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer="adamw")
    content: dict[str, Any] = dict(trained(recipe, batches(1)).checkpoint(100, "data", "native"))
    number, row = max(content["optimizer"]["state"].items())
    assert sorted(row) == ["exp_avg", "exp_avg_sq", "step"]
    for change in ({"exp_avg": torch.ones(99)}, {"more": torch.ones(1)}, {"step": torch.tensor(float("nan"))}):
        state = {**content["optimizer"]["state"], number: {**row, **change}}
        torch.save({**content, "optimizer": {**content["optimizer"], "state": state}}, tmp_path / "wrong.pt")
        with pytest.raises(CheckpointError, match=rf"optimizer\.state\.{number}"):
            trained(recipe, [], held=tmp_path / "wrong.pt")
    wrong = copy.deepcopy(content)
    wrong["optimizer"]["param_groups"][0]["lr_factor"] = 0.75
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(CheckpointError, match="param_groups are not those of the recipe"):
        trained(recipe, [], held=tmp_path / "wrong.pt")


def test_a_checkpoint_from_before_rates_had_factors_is_resumed_from(batches: Batches, tmp_path: Path) -> None:
    recipe = replace(RECIPE, layer_decay=1.0)
    content: dict[str, Any] = dict(trained(recipe, batches(1)).checkpoint(100, "data", "native"))
    for group in content["optimizer"]["param_groups"]:
        del group["lr_factor"]
    torch.save(content, tmp_path / "old.pt")
    assert trained(recipe, [], held=tmp_path / "old.pt").step == 1


@pytest.mark.parametrize("recipe", EACH, ids=by_name)
def test_the_logged_l2_is_half_of_decay_times_squares_where_the_loss_has_it(recipe: Recipe) -> None:
    state = TrainingState(recipe, CLASSES, ALONE.device)
    squares = sum(each.detach().square().sum() for each in state.network.parameters() if each.ndim > 1)
    decay = 0.0 if recipe.optimizer in ("adamw", "muon") else 1e-2  # theirs is decoupled
    torch.testing.assert_close(l2_loss(state.optimizer), 0.5 * decay * torch.as_tensor(squares))
    frozen = replace(recipe, phases=(replace(recipe.phases[0], freeze="backbone"),))
    state = TrainingState(frozen, CLASSES, ALONE.device)
    state.freeze("backbone")  # which decays no more
    squares = state.network.get_parameter("fc.weight").detach().square().sum()
    torch.testing.assert_close(l2_loss(state.optimizer), 0.5 * decay * squares)
