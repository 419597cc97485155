"""Batch norm with what stands beside it as one operation each, for training on a GPU; by Triton's kernels.

- `fused_norm`: batch norm, addition of a residual, ReLU.
- `norm_pool`: batch norm, ReLU and the stem's max-pooling.
- `norm_product` (fused_product.py): batch norm, addition, ReLU and the 1×1 convolution that follows, with the
  statistics of what that gives.

All take x [N, C, H, W] and give activations in channels_last and the dtype of x, and mean and unbiased variance of x's
channels, [C], in float32 (of a float64 x in float64), which have no gradients. Scale and shift, `weight` and `bias`,
are [C], a residual is like x.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from imagesprint.model.fused_kernels import (
    COMBINED_CHANNELS,
    COMBINED_PARTS,
    MAX_BLOCK_CHANNELS,
    POOL_TILE,
    PRODUCT_ROWS,
    PROGRAMS,
    TILE,
    WARPS,
    combine_kernel,
    gradient_sums_kernel,
    input_gradient_kernel,
    normalise_kernel,
    normalise_pool_kernel,
    statistics_kernel,
    total_kernel,
)

Partial = tuple[Tensor, Tensor]  # means and sums of squared deviations of blocks of PRODUCT_ROWS rows, [blocks, C]


def fused_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    relu: bool,
    eps: float,
    partial: Partial | tuple[None, None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor]:
    """Return relu(batch norm of x + residual), mean, variance; without `relu` nothing is cut off.

    With the `partial` statistics that `norm_product` gave with x it is not read for them.
    """
    out, mean, variance, *_ = _forward(x, weight, bias, residual, relu, eps, *partial)
    return out, mean, variance


def norm_pool(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return max_pool2d(relu(batch norm of x), 3, stride=2, padding=1), mean, variance."""
    out, _, mean, variance, _ = _pool_forward(x, weight, bias, eps)
    return out, mean, variance


@torch.library.custom_op("imagesprint::norm_forward", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    relu: bool,
    eps: float,
    means: Tensor | None,
    deviations: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, unbiased variance and 1 / √(variance + eps), and what `normalised` keeps."""
    x = channels_last(x)
    mean, variance, inverse = statistics(x, eps, means, deviations)
    out, kept = normalised(x, weight, bias, residual, relu, mean, inverse)
    return out, mean, variance, inverse, kept


@_forward.register_fake
def _empty_forward(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    residual, relu = others[2:4]
    out = torch.empty_like(x, memory_format=torch.channels_last)
    return out, *empty_statistics(x), empty_kept(x, relu and residual is not None)


def statistics(x: Tensor, eps: float, means: Tensor | None, deviations: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, unbiased variance and 1 / √(variance + eps) of x, from partial statistics where they are given."""
    mean, variance, inverse = empty_statistics(x)
    shape = _Tiles(x)
    parts, block_rows = shape.parts, shape.constants["BLOCK_ROWS"]
    if means is None or deviations is None:
        means, deviations = mean.new_empty((2, parts, shape.channels)).unbind()
        statistics_kernel[(parts * shape.column_blocks,)](
            x, means, deviations, shape.rows, shape.channels, parts, **shape.constants
        )
    else:
        parts, block_rows = len(means), PRODUCT_ROWS
    combine_kernel[(triton.cdiv(shape.channels, COMBINED_CHANNELS),)](
        means, deviations, mean, variance, inverse, shape.rows, shape.channels, parts, eps,
        **shape.constants | {"BLOCK_ROWS": block_rows, "BLOCK_CHANNELS": COMBINED_CHANNELS},
        BLOCK_PARTS=COMBINED_PARTS,
    )  # fmt: skip
    return mean, variance, inverse


def empty_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance, inverse = (x.new_empty(x.shape[1], dtype=arithmetic(x)) for _ in range(3))
    return mean, variance, inverse


def normalised(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, relu: bool, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the output, and a bit for each value of it that ReLU let pass, [N · H · W, C / 8], uint8: empty without a
    residual, where x tells it.
    """
    keep = relu and residual is not None
    out, kept, shape = torch.empty_like(x), empty_kept(x, keep), _Tiles(x)
    normalise_kernel[(shape.row_blocks * shape.column_blocks,)](
        x, x if residual is None else channels_last(residual), mean, inverse, weight, bias, out, kept,
        shape.rows, shape.channels, ADD=residual is not None, RELU=relu, KEEP=keep, **shape.constants,
    )  # fmt: skip
    return out, kept


def empty_kept(x: Tensor, keep: bool) -> Tensor:
    shape = (x.numel() // x.shape[1], -(-x.shape[1] // 8)) if keep else (0,)
    return x.new_empty(shape, dtype=torch.uint8)


@torch.library.custom_op("imagesprint::norm_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    x: Tensor,
    kept: Tensor | None,
    places: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, and of what ReLU was given if `kept` tells what that was.

    With `places` the gradient is that of the pooled output.
    """
    gradient, x = channels_last(gradient), channels_last(x)
    masked = gradient.new_empty(0) if kept is None else torch.empty_like(x)
    shape, by_x = _Tiles(x, TILE if places is None else POOL_TILE), relu and kept is None
    height, width = x.shape[2:]
    partial = mean.new_empty((shape.parts, 2, shape.channels))
    gradient_sums_kernel[(shape.parts * shape.column_blocks,)](
        gradient, x, x if kept is None else kept, x if places is None else places, mean, inverse, weight, bias, masked,
        partial, shape.rows, shape.channels, shape.parts, height, width,
        MASK_BY_X=by_x, MASK_BY_BITS=kept is not None, POOLED=places is not None, **shape.constants,
    )  # fmt: skip
    gradients = input_gradient(
        gradient if kept is None else masked, x, places, weight, bias, mean, inverse, by_x, partial
    )
    return *gradients, masked


@_backward.register_fake
def _empty_backward(
    gradient: Tensor, x: Tensor, kept: Tensor | None, _: Tensor | None, weight: Tensor, bias: Tensor, *__: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_gradient = torch.empty_like(x, memory_format=torch.channels_last)
    masked = gradient.new_empty(0) if kept is None else torch.empty_like(x_gradient)
    return x_gradient, torch.empty_like(weight), torch.empty_like(bias), masked


def input_gradient(
    gradient: Tensor,
    x: Tensor,
    places: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    by_x: bool,
    partial: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, from `partial` sums [parts, 2, C], see gradient_sums_kernel."""
    x_gradient, shape = torch.empty_like(x), _Tiles(x, TILE if places is None else POOL_TILE)
    sums, weight_gradient, bias_gradient = partial.new_empty(partial.shape[1:]), *map(torch.empty_like, (weight, bias))
    total_kernel[(triton.cdiv(shape.channels, COMBINED_CHANNELS),)](
        partial, inverse, sums, weight_gradient, bias_gradient, shape.channels, len(partial),
        BLOCK_PARTS=COMBINED_PARTS, BLOCK_CHANNELS=COMBINED_CHANNELS, F=float_type(x), num_warps=WARPS,
    )  # fmt: skip
    input_gradient_kernel[(shape.row_blocks * shape.column_blocks,)](
        gradient, x, x if places is None else places, mean, inverse, weight, bias, sums, x_gradient,
        shape.rows, shape.channels, x.shape[2], x.shape[3],
        MASK_BY_X=by_x, POOLED=places is not None, **shape.constants,
    )  # fmt: skip
    return x_gradient, weight_gradient, bias_gradient


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, residual, ctx.relu, *_ = inputs
    _, mean, variance, inverse, kept = output
    ctx.has_residual = residual is not None
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.mark_non_differentiable(mean, variance, inverse, kept)
    ctx.save_for_backward(x, kept, weight, bias, mean, inverse)


def _gradients(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 8
    x, kept, weight, bias, mean, inverse = ctx.saved_tensors
    by_bits = ctx.relu and ctx.has_residual
    x_gradient, weight_gradient, bias_gradient, masked = _backward(
        gradient, x, kept if by_bits else None, None, weight, bias, mean, inverse, ctx.relu
    )
    residual_gradient = (masked if by_bits else gradient) if ctx.has_residual else None
    return x_gradient, weight_gradient, bias_gradient, residual_gradient, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


@torch.library.custom_op("imagesprint::norm_pool_forward", mutates_args=())
def _pool_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return output, where in its window each value of it was, mean, unbiased variance and 1 / √(variance + eps)."""
    x = channels_last(x)
    out, places, *_ = _empty_pool_forward(x)
    mean, variance, inverse = statistics(x, eps, None, None)
    shape = _Tiles(out, POOL_TILE)
    normalise_pool_kernel[(shape.row_blocks * shape.column_blocks,)](
        x, mean, inverse, weight, bias, out, places, shape.rows, shape.channels, x.shape[2], x.shape[3],
        **shape.constants,
    )  # fmt: skip
    return out, places, mean, variance, inverse


@_pool_forward.register_fake
def _empty_pool_forward(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = (*x.shape[:2], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    out, places = (
        torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
        for dtype in (x.dtype, torch.int8)
    )
    return out, places, *empty_statistics(x)


def _keep_for_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _ = inputs
    _, places, mean, variance, inverse = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(places, mean, variance, inverse)
    ctx.save_for_backward(x, places, weight, bias, mean, inverse)


def _pool_gradients(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 4
    x, places, weight, bias, mean, inverse = ctx.saved_tensors
    x_gradient, weight_gradient, bias_gradient, _ = _backward(
        gradient, x, None, places, weight, bias, mean, inverse, True
    )
    return x_gradient, weight_gradient, bias_gradient, None


_pool_forward.register_autograd(_pool_gradients, setup_context=_keep_for_pool)


class _Tiles:
    """How `x`, in channels_last, is cut into tiles of `tile` values and these into programs."""

    def __init__(self, x: Tensor, tile: int = TILE) -> None:
        self.channels = x.shape[1]
        self.rows = x.numel() // self.channels
        block_channels = min(max(triton.next_power_of_2(self.channels), 8), MAX_BLOCK_CHANNELS)
        block_rows = tile // block_channels
        self.column_blocks = triton.cdiv(self.channels, block_channels)
        self.row_blocks = triton.cdiv(self.rows, block_rows)
        # Of the rows, where they are summed up
        self.parts = min(self.row_blocks, max(1, PROGRAMS // self.column_blocks))
        self.constants: dict[str, Any] = {
            "BLOCK_ROWS": block_rows,
            "BLOCK_CHANNELS": block_channels,
            "F": float_type(x),
            "num_warps": WARPS,
        }


def float_type(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
