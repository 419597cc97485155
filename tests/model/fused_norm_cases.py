"""The operations of fused_norm.py against PyTorch's own, on a GPU or in Triton's interpreter.

test_fused_norm.py runs this file in a process of its own: TRITON_INTERPRET is read when Triton is imported.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from imagesprint.loading.batch import Batch
from imagesprint.model import fused_norm as module
from imagesprint.model import resnet
from imagesprint.model.fused_norm import fused_norm
from imagesprint.model.fused_resnet import fuse
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda:0")
EPS = 1e-5
# On a GPU kernels are compiled anew for most shapes: fewer of them
SHAPES = [(2, 3, 5, 7), (3, 130, 4, 5), (2, 1, 1, 1), (4, 64, 13, 11)][: 4 if DEVICE.type == "cpu" else 2]


def reference(*given: Any) -> Tensor:
    x, weight, bias, residual, relu = given
    out = F.batch_norm(x, None, None, weight, bias, True, 0.0, EPS)
    out = out if residual is None else out + residual
    return F.relu(out) if relu else out


def ours(*given: Any) -> Tensor:
    x, weight, bias, residual, relu = given
    return fused_norm(x, weight, bias, residual, relu, EPS)[0]


def inputs(shape: tuple[int, ...], residual: bool, dtype: torch.dtype, seed: int = 0) -> list[Tensor | None]:
    """Activations of `dtype` away from zero, weight and bias of the dtype of the arithmetic, perhaps a residual."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    like = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, shape[1], shape[1], shape)]
    kinds = (dtype, wide, wide, dtype)
    x, weight, bias, added = (value.to(DEVICE, kind) for value, kind in zip(like, kinds, strict=True))
    return [(2 * x + 3).contiguous(memory_format=torch.channels_last), weight, bias, added if residual else None]


def leaves(given: list[Tensor | None]) -> list[Tensor | None]:
    """Copies of what is given, to have gradients."""
    return [None if value is None else value.detach().clone().requires_grad_() for value in given]


def required(given: list[Tensor | None]) -> list[Tensor]:
    return [value for value in given if value is not None]


def run(function: Callable[..., Tensor], given: list[Tensor | None], relu: bool) -> list[Tensor]:
    """The output, and the gradients of all that is given."""
    values = leaves(given)
    out = function(*values, relu)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    return [out, *torch.autograd.grad(out, required(values), gradient)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_float64_it_is_what_torch_computes(
    shape: tuple[int, ...], residual: bool, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRAMS", 6)  # so that one adds up several tiles, the last of them cut short
    given = inputs(shape, residual, torch.float64)
    torch.testing.assert_close(run(ours, given, relu), run(reference, given, relu), rtol=1e-9, atol=1e-9)
    x, weight, bias = required(given)[:3]
    _, mean, variance = fused_norm(x, weight, bias, None, relu, EPS)
    torch.testing.assert_close((mean, variance), (x.mean((0, 2, 3)), x.var((0, 2, 3))), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_in_fewer_bits_it_is_as_near_as_rounding_allows(dtype: torch.dtype, within: float, residual: bool) -> None:
    given = inputs((4, 24, 9, 10), residual, dtype)
    exact = run(reference, [None if value is None else value.double() for value in given], relu=True)
    for found, wanted in zip(run(ours, given, relu=True), exact, strict=True):
        assert found.dtype == (dtype if found.dim() == 4 else torch.float32)
        assert (found.double() - wanted).norm() < within * wanted.norm()


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x, weight, bias = required(inputs((8, 16, 12, 12), False, torch.float32))
    x = (x * 0.01 + 300).contiguous(memory_format=torch.channels_last)
    _, mean, variance = fused_norm(x, weight, bias, None, False, EPS)
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), x.double().var((0, 2, 3)), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("residual", "relu"), [(False, False), (False, True), (True, True)])
def test_gradients_are_those_of_small_differences(residual: bool, relu: bool) -> None:
    given: Any = leaves(inputs((2, 3, 3, 2), residual, torch.float64))
    assert torch.autograd.gradcheck(lambda *values: ours(*values, relu), given, fast_mode=True)


def test_the_same_input_gives_the_same_bits() -> None:
    given = inputs((4, 40, 8, 8), True, torch.bfloat16)
    for first, second in zip(run(ours, given, True), run(ours, given, True), strict=True):
        assert torch.equal(first, second)


def test_what_is_no_number_stays_none() -> None:
    x, weight, bias = required(inputs((2, 4, 3, 3), False, torch.float32))
    x[0, 1, 0, 0] = torch.nan
    out, *gradients = run(ours, [x, weight, bias, None], relu=True)
    assert [bool(channel.isnan().all()) for channel in out.unbind(1)] == [False, True, False, False]
    assert gradients[0][:, 1].isnan().all()
    assert not gradients[0][:, 2].isnan().any()


def test_any_layout_will_do() -> None:
    x, *others = required(inputs((2, 5, 4, 3), True, torch.float64))
    values = required(leaves([x.contiguous(), *others]))
    found = []
    for function in (ours, reference):
        out = function(*values, True)
        found.append(torch.autograd.grad(out.mean((2, 3)).sum(), values))  # the gradient's strides are zero
    assert ours(*values, True).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("residual", "relu"), [(False, True), (True, True)])
def test_pytorchs_own_checks_of_an_operation_pass(residual: bool, relu: bool) -> None:
    """Schema, autograd's registration, shapes and strides of empty tensors, tracing by torch.compile's machinery."""
    given = leaves(inputs((2, 6, 4, 3), residual, torch.float32))
    checked: dict[str, str] = torch.library.opcheck(
        torch.ops.imagesprint.norm_forward.default, (*given, relu, EPS, None, None)
    )
    assert set(checked.values()) == {"SUCCESS"}


RECIPE = Recipe(
    name="test", model="resnet20", precision="fp64", phases=(Phase((0, 1), (0.1, 0.1), "constant", 8, 4, 12),)
)


def micro_batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 4, 12, 12, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 7, (count, 4), generator=generator)
    return [Batch(images[i], labels[i], labels[i], labels[i] >= 0, 0, torch.empty((4, 0))) for i in range(count)]


# The first is fused as a whole, the second, whose stem has no pooling, batch norm by batch norm.
NETWORKS: tuple[tuple[resnet.Architecture, dict[str, Any]], ...] = (
    (resnet.Architecture((2, 1), bottleneck=True, widths=(8, 16)), {"stem": "deep"}),
    (
        resnet.Architecture((1,), bottleneck=True, widths=(8,), small_stem=True),
        {"attention": "se", "shortcut": "pool"},
    ),
)


def test_blocks_with_gates_are_not_fused_as_a_whole() -> None:
    for attention in ("none", "se", "eca"):
        variant = resnet.Variant(attention=attention)
        network = resnet.ResNet(resnet.Architecture((1,), bottleneck=True, widths=(8,)), 5, variant)
        fuse(network)
        assert (network.fused is None, network.bn1.fused is None) == (attention != "none", False)


@pytest.mark.parametrize(("network", "changes"), NETWORKS)
@pytest.mark.parametrize("compiled", [False, True])
def test_steps_are_those_of_torchs_operations(
    compiled: bool, network: resnet.Architecture, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of two micro-batches: weights, running statistics and metrics, on a GPU under graphs as well."""
    monkeypatch.setitem(resnet.ARCHITECTURES, "resnet20", network)
    if DEVICE.type == "cpu":  # all of torch.compile but the C++ compiler, which takes a second a layer
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    ranks, classes = Ranks(0, 1, 0, 1, DEVICE), tuple("abcdefg")
    found: list[Any] = []
    for fused in (False, True):
        state = TrainingState(replace(RECIPE, zero_init=False, **changes), classes, DEVICE)
        if fused:
            fuse(state.network)
        step, feed = TrainingStep(state, ranks, compiled and fused), iter(micro_batches(4))
        step.prepare(RECIPE.phases)
        found.append(([step(feed, RECIPE.phases[0], 0.1).clone() for _ in range(2)], state.evaluated_weights()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-9)
