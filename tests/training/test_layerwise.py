"""LARS and Muon against their definitions, in float64."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.layerwise import COEFFICIENTS, ITERATIONS, orthogonalise
from imagesprint.training.optimizer import build_optimizer, set_learning_rate

RECIPE = Recipe(
    name="test",
    momentum=0.8,
    weight_decay=0.3,
    decay_norm_and_bias=False,
    phases=(Phase((0, 1), (0.1, 0.1), "constant", 8, 8, 16),),
)
STEPS = 3


def network() -> nn.ModuleDict:
    """Wide and tall convolutions, some of equal shape, in the layout that training has, and linear layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: dict[str, nn.Module] = {
            "first": nn.Conv2d(3, 4, 3, bias=False),
            "wide": nn.Conv2d(4, 6, 3, bias=False),
            "alike": nn.Conv2d(4, 6, 3, bias=False),
            "tall": nn.Conv2d(4, 10, 1, bias=False),
            "linear": nn.Linear(9, 5),
            "norm": nn.BatchNorm2d(4),
            "head": nn.Linear(6, 3),
        }
        return nn.ModuleDict(layers).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def gradients(given: nn.Module) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {name: torch.randn(each.shape, generator=draw, dtype=torch.float64) for name, each in given.named_parameters()}
        for _ in range(STEPS)
    ]


def check(recipe: Recipe, expected: Callable[[str, Tensor, list[Tensor], list[float]], Tensor]) -> None:
    """Hold the recipe's optimizer against `expected(name, start, gradients, rates)` after STEPS steps of unlike rates.

    The last parameter, whose gradient is None in the second step, is left alone in it.
    """
    trained, rates = network(), [0.1, 0.3, 0.02]
    start, given = copy.deepcopy(trained.state_dict()), gradients(trained)
    optimizer = build_optimizer(recipe, trained)
    for number, (step, lr) in enumerate(zip(given, rates, strict=True)):
        for name, parameter in trained.named_parameters():
            parameter.grad = None if (name, number) == ("head.bias", 1) else step[name].clone()
        set_learning_rate(optimizer, lr)
        optimizer.step()
    for name, parameter in trained.named_parameters():
        seen = [number for number in range(STEPS) if (name, number) != ("head.bias", 1)]
        wanted = expected(name, start[name], [given[number][name] for number in seen], [rates[i] for i in seen])
        torch.testing.assert_close(parameter.data, wanted, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_that_of_the_paper(nesterov: bool) -> None:
    def expected(_: str, weight: Tensor, given: list[Tensor], rates: list[float]) -> Tensor:
        velocity = torch.zeros_like(weight)
        decay = 0.3 if weight.ndim > 1 else 0.0
        for gradient, lr in zip(given, rates, strict=True):
            trust = 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm()) if weight.ndim > 1 else 1.0
            step = lr * trust * (gradient + decay * weight)
            velocity = 0.8 * velocity + step
            weight = weight - (step + 0.8 * velocity if nesterov else velocity)
        return weight

    check(replace(RECIPE, optimizer="lars", nesterov=nesterov), expected)


def test_lars_goes_by_the_rate_alone_where_a_norm_is_zero() -> None:
    trained = nn.Conv2d(2, 3, 1, bias=False)
    nn.init.zeros_(trained.weight)
    optimizer = build_optimizer(replace(RECIPE, optimizer="lars"), trained)
    set_learning_rate(optimizer, 0.5)
    trained.weight.grad = torch.ones_like(trained.weight)
    optimizer.step()
    assert trained.weight.flatten().tolist() == [-0.5] * 6
    optimizer.state[trained.weight]["momentum_buffer"].zero_()
    trained.weight.grad.zero_()
    optimizer.step()
    torch.testing.assert_close(trained.weight.data, torch.full_like(trained.weight, -0.5 * (1 - 0.5 * 0.3)))


def polynomial(values: Tensor) -> Tensor:
    """What the iterations make of singular values, by the definition."""
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    return values


def orthogonal(matrix: Tensor) -> Tensor:
    """By singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    made: Tensor = left @ torch.diag(polynomial(values / values.norm())) @ right
    return made


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_by_its_definition(nesterov: bool) -> None:
    hidden = {"wide.weight", "alike.weight", "tall.weight", "linear.weight"}

    def expected(name: str, weight: Tensor, given: list[Tensor], rates: list[float]) -> Tensor:
        momentum = torch.zeros_like(weight)
        for gradient, lr in zip(given, rates, strict=True):
            momentum = 0.8 * momentum + gradient
            update = gradient + 0.8 * momentum if nesterov else momentum
            if name in hidden:
                matrix = update.reshape(len(update), -1)
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                update = scale * orthogonal(matrix).reshape(update.shape)
            rate = lr if name in hidden else 2 * lr
            weight = weight * (1 - rate * (0.3 if weight.ndim > 1 else 0.0)) - rate * update
        return weight

    check(replace(RECIPE, optimizer="muon", nesterov=nesterov, rest_lr=2.0), expected)


def test_orthogonalised_all_singular_values_are_near_one() -> None:
    draw = torch.Generator().manual_seed(0)
    given = (
        torch.randn(3, 16, 144, generator=draw, dtype=torch.float64) * torch.tensor([1e-12, 1.0, 1e9])[:, None, None]
    )
    made = orthogonalise(given)
    for matrix, result in zip(given, made, strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        turned = left.mT @ result @ right.mT  # diagonal where the singular vectors are the same
        torch.testing.assert_close(turned, torch.diag(turned.diagonal()), rtol=0, atol=1e-10)
        assert 0.68 < turned.diagonal().min() <= turned.diagonal().max() < 1.21
        torch.testing.assert_close(result, orthogonal(matrix), rtol=0, atol=1e-10)
    assert not orthogonalise(torch.zeros(1, 4, 9)).any()


def test_in_float32_it_holds_for_matrices_of_low_rank_as_well() -> None:
    """As gradients are: most singular values are tiny, and rounding makes eigenvalues of the products negative."""
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(64, 4, generator=draw), torch.randn(4, 576, generator=draw)
    given = left @ right + 1e-6 * torch.randn(64, 576, generator=draw)
    made = orthogonalise(given[None])[0]
    torch.testing.assert_close(made.double(), orthogonal(given.double()), rtol=0, atol=1e-4)


def test_it_costs_what_it_says() -> None:
    with FlopCounterMode(display=False) as counted:
        orthogonalise(torch.ones(2, 16, 144))
    assert counted.get_total_flops() == 2 * (4 * 16**2 * 144 + 34 * 16**3)
