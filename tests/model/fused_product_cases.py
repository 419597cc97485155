"""The operations of fused_product.py and the pooling one against PyTorch's own, as fused_norm_cases.py."""

import os
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F
from triton.runtime import interpreter

from imagesprint.errors import RecipeError
from imagesprint.model import fused_norm
from imagesprint.model.fused_norm import norm_pool
from imagesprint.model.fused_product import norm_product
from imagesprint.model.fused_resnet import fuse
from imagesprint.model.resnet import Architecture, ResNet

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda:0")
EPS = 1e-5
# Rows, channels and kernels that fill their blocks, and such that do not. On a GPU most shapes are compiled anew: fewer
PRODUCTS = [((3, 130, 6, 9), 70), ((2, 64, 8, 8), 192), ((2, 3, 5, 7), 4)][: 3 if INTERPRETED else 2]
POOLED = [(2, 5, 7, 9), (1, 130, 4, 5), (2, 3, 6, 8), (3, 64, 1, 2)][: 4 if INTERPRETED else 2]


@pytest.fixture(autouse=True)
def products_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter of Triton 3.7 multiplies the bit patterns of bf16: widen them, which is exact."""
    plain = interpreter.InterpreterBuilder.create_dot

    def wide(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        data = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(data, tl.float32)

    def dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return plain(self, wide(a), wide(b), *others)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if len(shape) == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    return values.to(DEVICE, dtype)


def given(shape: tuple[int, ...], kernels: int, residual: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """x away from zero, weight and bias in the dtype of the arithmetic, perhaps a residual, kernels."""
    wide, channels = torch.float64 if dtype == torch.float64 else torch.float32, shape[1]
    values = {
        "x": 2 * random(*shape, dtype=dtype, seed=0) + 3,
        "weight": random(channels, dtype=wide, seed=1),
        "bias": random(channels, dtype=wide, seed=2),
        "kernel": random(kernels, channels, 1, 1, dtype=dtype, seed=3) / channels**0.5,
    }
    return values | ({"residual": random(*shape, dtype=dtype, seed=4)} if residual else {})


def ours(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    x, weight, bias, kernel = (values[name] for name in ("x", "weight", "bias", "kernel"))
    out, product, partial, mean, variance = norm_product(x, weight, bias, values.get("residual"), kernel, EPS)
    # What it says of its product is what batch norm finds there.
    ones, zeros = torch.ones(len(kernel)).to(weight), torch.zeros(len(kernel)).to(weight)
    told, found = (fused_norm.fused_norm(product, ones, zeros, None, False, EPS, by) for by in (partial, (None, None)))
    within = 1e-10 if x.dtype == torch.float64 else 1e-4
    for one, other in zip(told[1:], found[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=within, atol=within, equal_nan=True)
    for one, other in ((mean, x.to(mean).mean((0, 2, 3))), (variance, x.to(mean).var((0, 2, 3)))):
        torch.testing.assert_close(one, other, rtol=within, atol=within, equal_nan=True)
    return out, product


def reference(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    out = F.batch_norm(values["x"], None, None, values["weight"], values["bias"], True, 0.0, EPS)
    out = F.relu(out + values["residual"] if "residual" in values else out)
    return out, F.conv2d(out, values["kernel"])


def results(function: Any, values: dict[str, Tensor], both: bool) -> list[Tensor]:
    """The outputs, and the gradients of all that is given: through the product alone, or through both outputs."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    out, product = function(leaves)
    used = (out, product) if both else (product,)
    gradients = [random(*each.shape, dtype=each.dtype, seed=5 + place) for place, each in enumerate(used)]
    return [out, product, *torch.autograd.grad(used, list(leaves.values()), gradients)]


@pytest.mark.parametrize(("residual", "both"), [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize(("shape", "kernels"), PRODUCTS)
def test_in_float64_it_is_what_torch_computes(shape: tuple[int, ...], kernels: int, residual: bool, both: bool) -> None:
    values = given(shape, kernels, residual, torch.float64)
    torch.testing.assert_close(results(ours, values, both), results(reference, values, both), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_in_fewer_bits_it_is_as_near_as_rounding_allows(dtype: torch.dtype, within: float) -> None:
    values = given((4, 24, 9, 10), 40, True, dtype)
    exact = results(reference, {name: value.double() for name, value in values.items()}, True)
    for found, wanted in zip(results(ours, values, True), exact, strict=True):
        assert found.dtype == (dtype if found.dim() == 4 else torch.float32)
        assert (found.double() - wanted).norm() < within * wanted.norm()


def test_the_same_input_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # the weights' gradient is cuDNN's
    values = given((4, 40, 8, 8), 24, True, torch.bfloat16)
    for first, second in zip(results(ours, values, True), results(ours, values, True), strict=True):
        assert torch.equal(first, second)


def test_what_is_no_number_stays_none() -> None:
    values = given((2, 4, 3, 3), 5, False, torch.float32)
    values["x"][0, 1, 0, 0] = torch.nan
    out, product, x_gradient, *_ = results(ours, values, False)
    assert [bool(channel.isnan().all()) for channel in out.unbind(1)] == [False, True, False, False]
    assert product.isnan().all()
    assert x_gradient[:, 1].isnan().all()


@pytest.mark.parametrize("shape", POOLED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_pooling_is_what_torch_computes(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float16 with few different values, so that windows have several largest ones; the first counts."""
    monkeypatch.setattr(fused_norm, "PROGRAMS", 6)
    values = given(shape, 1, False, dtype)
    if dtype == torch.float16:
        values["x"] = values["x"].round()
    found = []
    for ours in (True, False):
        x, weight, bias = leaves = [values[name].detach().clone().requires_grad_() for name in ("x", "weight", "bias")]
        if ours:
            out = norm_pool(x, weight, bias, EPS)[0]
        else:
            out = F.max_pool2d(F.relu(F.batch_norm(x, None, None, weight, bias, True, 0.0, EPS)), 3, 2, 1)
        gradient = random(*out.shape, dtype=dtype, seed=5)
        found.append([out, *torch.autograd.grad(out, leaves, gradient)])
    within = 1e-9 if dtype == torch.float64 else 4e-3
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= within * other.norm()


def test_a_single_value_a_channel_is_refused() -> None:
    network = ResNet(Architecture((1,), True, (8,)), 5).to(DEVICE).train()
    fuse(network)
    assert network.fused is not None
    with pytest.raises(RecipeError, match="micro_batch 1"):
        network(torch.zeros(1, 3, 4, 4, device=DEVICE))


def test_pytorchs_own_checks_of_an_operation_pass() -> None:
    """Schema, autograd's registration, shapes and strides of empty tensors, tracing by torch.compile's machinery."""
    values = given((2, 6, 4, 3), 5, True, torch.float32)
    leaves = {name: value.requires_grad_() for name, value in values.items()}
    scale = (leaves["x"], leaves["weight"], leaves["bias"])
    of_product = (*scale, leaves["residual"], leaves["kernel"], EPS, None, None)
    operations = torch.ops.imagesprint
    for operation, arguments in (
        (operations.norm_product_forward, of_product),
        (operations.norm_pool_forward, (*scale, EPS)),
    ):
        checked: dict[str, str] = torch.library.opcheck(operation.default, arguments)
        assert set(checked.values()) == {"SUCCESS"}


def test_gradients_are_those_of_small_differences() -> None:
    values = given((2, 3, 3, 2), 4, True, torch.float64)
    names = ("x", "weight", "bias", "residual", "kernel")

    def product(*leaves: Any) -> tuple[Tensor, Tensor]:
        x, weight, bias, residual, kernel = leaves
        return norm_product(x, weight, bias, residual, kernel, EPS)[:2]

    leaves = tuple(values[name].requires_grad_() for name in names)
    assert torch.autograd.gradcheck(product, leaves, fast_mode=True)
