"""Batch norm fused with addition and ReLU as an operation of PyTorch's, with gradients: fused_kernels.py at work.

Forward: x is read for its statistics, then read with the residual, and the output written. Backward, without a
residual: gradient and x are read for the sums, then again for x's gradient; ReLU's mask is computed from x anew. With a
residual the first of these passes also reads the output, for the mask, and writes the residual's gradient, which the
second reads instead. Nothing is kept for the backward pass but x and the output, which the convolutions around keep
anyway. `diagnosis/roofline.py` counts the bytes.

The operations are opaque to torch.compile, which keeps their order and strides, and a CUDA graph captures their
kernels. Importing this module needs Triton, which comes with PyTorch's builds for CUDA.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from imagesprint.model.fused_kernels import (
    COMBINED_CHANNELS,
    MAX_BLOCK_CHANNELS,
    PROGRAMS,
    TILE,
    WARPS,
    combine_kernel,
    gradient_sums_kernel,
    input_gradient_kernel,
    normalise_kernel,
    statistics_kernel,
)


def fused_norm(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, relu: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return relu(batch norm of `x` [N, C, H, W] + residual), in channels_last and the dtype of `x`; mean and unbiased
    variance of its channels, [C], in float32 (of a float64 `x` in float64), which have no gradients.

    Weight and bias are [C], a residual is like `x`; without `relu` nothing is cut off.
    """
    out, mean, variance, _ = _forward(x, weight, bias, residual, relu, eps)
    return out, mean, variance


@torch.library.custom_op("imagesprint::norm_forward", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, relu: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, unbiased variance and 1 / √(variance + eps)."""
    x = _channels_last(x)
    out, mean, variance, inverse = _empty_forward(x)
    shape = _Shape(x)
    means, deviations = mean.new_empty((2, shape.parts, shape.channels)).unbind()
    statistics_kernel[(shape.parts * shape.column_blocks,)](
        x, means, deviations, shape.rows, shape.channels, shape.parts, **shape.constants
    )
    combine_kernel[(triton.cdiv(shape.channels, COMBINED_CHANNELS),)](
        means, deviations, mean, variance, inverse, shape.rows, shape.channels, shape.parts, eps,
        **shape.constants | {"BLOCK_CHANNELS": COMBINED_CHANNELS},
        BLOCK_PARTS=triton.next_power_of_2(shape.parts),
    )  # fmt: skip
    normalise_kernel[(shape.row_blocks * shape.column_blocks,)](
        x, x if residual is None else _channels_last(residual), mean, inverse, weight, bias, out,
        shape.rows, shape.channels, ADD=residual is not None, RELU=relu, **shape.constants,
    )  # fmt: skip
    return out, mean, variance, inverse


@_forward.register_fake
def _empty_forward(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, variance, inverse = (x.new_empty(x.shape[1], dtype=_arithmetic(x)) for _ in range(3))
    return torch.empty_like(x, memory_format=torch.channels_last), mean, variance, inverse


@torch.library.custom_op("imagesprint::norm_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    x: Tensor,
    out: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, and of what ReLU was given if its output `out` is there."""
    gradient, x = _channels_last(gradient), _channels_last(x)
    x_gradient, weight_gradient, bias_gradient, masked = _empty_backward(gradient, x, out, weight, bias)
    shape = _Shape(x)
    by_x = relu and out is None
    partial = mean.new_empty((shape.parts, 2, shape.channels))
    gradient_sums_kernel[(shape.parts * shape.column_blocks,)](
        gradient, x, x if out is None else out, mean, inverse, weight, bias, masked, partial,
        shape.rows, shape.channels, shape.parts, MASK_BY_X=by_x, MASK_BY_OUT=out is not None, **shape.constants,
    )  # fmt: skip
    sums = partial.sum(0)
    input_gradient_kernel[(shape.row_blocks * shape.column_blocks,)](
        gradient if out is None else masked, x, mean, inverse, weight, bias, sums, x_gradient,
        shape.rows, shape.channels, MASK_BY_X=by_x, **shape.constants,
    )  # fmt: skip
    weight_gradient.copy_(sums[1] * inverse)
    bias_gradient.copy_(sums[0])
    return x_gradient, weight_gradient, bias_gradient, masked


@_backward.register_fake
def _empty_backward(
    gradient: Tensor, x: Tensor, out: Tensor | None, weight: Tensor, bias: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_gradient = torch.empty_like(x, memory_format=torch.channels_last)
    masked = gradient.new_empty(0) if out is None else torch.empty_like(x_gradient)
    return x_gradient, torch.empty_like(weight), torch.empty_like(bias), masked


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, residual, ctx.relu, _ = inputs
    out, mean, variance, inverse = output
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(mean, variance, inverse)
    ctx.save_for_backward(x, out if ctx.relu and ctx.has_residual else None, weight, bias, mean, inverse)


def _gradients(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, out, weight, bias, mean, inverse = ctx.saved_tensors
    x_gradient, weight_gradient, bias_gradient, masked = _backward(
        gradient, x, out, weight, bias, mean, inverse, ctx.relu
    )
    residual_gradient = (gradient if out is None else masked) if ctx.has_residual else None
    return x_gradient, weight_gradient, bias_gradient, residual_gradient, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


class _Shape:
    """How `x`, in channels_last, is cut into tiles and these into programs."""

    def __init__(self, x: Tensor) -> None:
        self.channels = x.shape[1]
        self.rows = x.numel() // self.channels
        block_channels = min(triton.next_power_of_2(self.channels), MAX_BLOCK_CHANNELS)
        block_rows = TILE // block_channels
        self.column_blocks = triton.cdiv(self.channels, block_channels)
        self.row_blocks = triton.cdiv(self.rows, block_rows)
        # Of the rows, where they are summed up
        self.parts = min(self.row_blocks, max(1, PROGRAMS // self.column_blocks))
        self.constants: dict[str, Any] = {
            "BLOCK_ROWS": block_rows,
            "BLOCK_CHANNELS": block_channels,
            "F": tl.float64 if x.dtype == torch.float64 else tl.float32,
            "num_warps": WARPS,
        }


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
