"""Batch norm, addition, ReLU and the 1×1 convolution that follows as one operation; see fused_norm.py."""

from typing import Any

import torch
import triton
from torch import Tensor

from imagesprint.model.fused_kernels import PRODUCT_ROWS, WARPS
from imagesprint.model.fused_norm import (
    Partial,
    arithmetic,
    channels_last,
    empty_kept,
    empty_statistics,
    float_type,
    input_gradient,
    normalised,
    statistics,
)
from imagesprint.model.product_kernels import (
    FLOAT64_COLUMNS,
    FLOAT64_DEPTH,
    MAX_PRODUCT_COLUMNS,
    PRODUCT_DEPTH,
    PRODUCT_STAGES,
    product_gradient_kernel,
    product_statistics_kernel,
)


def norm_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    kernel: Tensor,
    eps: float,
    partial: Partial | tuple[None, None] = (None, None),
) -> tuple[Tensor, Tensor, Partial, Tensor, Tensor]:
    """Return out = relu(batch norm of x + residual), conv2d(out, kernel), partial statistics of that, mean, variance.

    `kernel` is [K, C, 1, 1] and of the dtype of x. The gradient through `out` joins that through the convolution.
    """
    out, product, means, deviations, mean, variance, *_ = _product_forward(
        x, weight, bias, residual, kernel, eps, *partial
    )
    return out, product, (means, deviations), mean, variance


@torch.library.custom_op("imagesprint::norm_product_forward", mutates_args=())
def _product_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    kernel: Tensor,
    eps: float,
    means: Tensor | None,
    deviations: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return output, its product with `kernel` and that one's partial statistics; mean, unbiased variance and
    1 / √(variance + eps) of x, and what `normalised` keeps.
    """
    x = channels_last(x)
    mean, variance, inverse = statistics(x, eps, means, deviations)
    out, kept = normalised(x, weight, bias, residual, True, mean, inverse)
    product, new_means, new_deviations = _empty_product(x, kernel)
    shape = _ProductTiles(x, len(kernel), MAX_PRODUCT_COLUMNS)
    product_statistics_kernel[shape.programs](
        out, kernel, product, new_means, new_deviations, shape.rows, x.shape[1], len(kernel), **shape.constants
    )
    return out, product, new_means, new_deviations, mean, variance, inverse, kept


def _empty_product(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (len(x), len(kernel), *x.shape[2:])
    product = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    blocks = -(-x.numel() // x.shape[1] // PRODUCT_ROWS)
    means, deviations = (x.new_empty((blocks, len(kernel)), dtype=arithmetic(x)) for _ in range(2))
    return product, means, deviations


@_product_forward.register_fake
def _empty_product_forward(x: Tensor, *others: Any) -> Any:
    residual, kernel = others[2:4]
    out = torch.empty_like(x, memory_format=torch.channels_last)
    return out, *_empty_product(x, kernel), *empty_statistics(x), empty_kept(x, residual is not None)


@torch.library.custom_op("imagesprint::norm_product_backward", mutates_args=())
def _product_backward(
    gradient: Tensor,
    added: Tensor | None,
    x: Tensor,
    kept: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    kernel: Tensor,
    mean: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, and of what ReLU was given; from the product's and, `added`, that of
    ReLU's output elsewhere. What ReLU cut off is what `kept` tells, else what x does.
    """
    gradient, x = channels_last(gradient), channels_last(x)
    # Short sums end in much to read and little to multiply: with narrow tiles two programs share a multiprocessor.
    most = MAX_PRODUCT_COLUMNS // 2 if len(kernel) <= MAX_PRODUCT_COLUMNS else MAX_PRODUCT_COLUMNS
    masked, shape = torch.empty_like(x), _ProductTiles(x, x.shape[1], most)
    partial = mean.new_empty((shape.row_blocks, 2, x.shape[1]))
    product_gradient_kernel[shape.programs](
        gradient, kernel, x if added is None else channels_last(added), x if kept is None else kept, x,
        mean, inverse, weight, bias, masked, partial, shape.rows, x.shape[1], len(kernel),
        ADD=added is not None, MASK_BY_BITS=kept is not None, **shape.constants,
    )  # fmt: skip
    return *input_gradient(masked, x, None, weight, bias, mean, inverse, False, partial), masked


@_product_backward.register_fake
def _empty_product_backward(*given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, _, weight, bias = given[2:6]
    x_gradient, masked = (torch.empty_like(x, memory_format=torch.channels_last) for _ in range(2))
    return x_gradient, torch.empty_like(weight), torch.empty_like(bias), masked


def _keep_for_product(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, residual, kernel, *_ = inputs
    out, _, *partial, mean, variance, inverse, kept = output
    ctx.set_materialize_grads(False)
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(*partial, mean, variance, inverse, kept)
    ctx.save_for_backward(x, out, kept, weight, bias, kernel, mean, inverse)


def _product_gradients(ctx: Any, added: Tensor | None, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    x, out, kept, weight, bias, kernel, mean, inverse = ctx.saved_tensors
    if gradient is None:  # nothing depends on the product
        gradient = x.new_zeros((len(x), len(kernel), *x.shape[2:]))
    x_gradient, weight_gradient, bias_gradient, masked = _product_backward(
        gradient, added, x, kept if ctx.has_residual else None, weight, bias, kernel, mean, inverse
    )
    # Of the kernel alone: where the gradient is a sum over rows, cuDNN's product has nothing to gain from us.
    kernel_gradient = torch.ops.aten.convolution_backward(
        gradient, out, kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    residual_gradient = masked if ctx.has_residual else None
    return x_gradient, weight_gradient, bias_gradient, residual_gradient, kernel_gradient, None, None, None


_product_forward.register_autograd(_product_gradients, setup_context=_keep_for_product)


class _ProductTiles:
    """How a product with the rows of `x` and `columns` columns is cut into tiles of at most `most`, one a program."""

    def __init__(self, x: Tensor, columns: int, most: int) -> None:
        self.rows = x.numel() // x.shape[1]
        self.row_blocks = triton.cdiv(self.rows, PRODUCT_ROWS)
        wide = x.dtype == torch.float64
        most = min(most, FLOAT64_COLUMNS) if wide else most
        block_columns = min(max(triton.next_power_of_2(columns), 16), most)
        self.programs = (self.row_blocks * triton.cdiv(columns, block_columns),)
        self.constants: dict[str, Any] = {
            "BLOCK_ROWS": PRODUCT_ROWS,
            "BLOCK_COLUMNS": block_columns,
            "BLOCK_DEPTH": FLOAT64_DEPTH if wide else PRODUCT_DEPTH,
            "F": float_type(x),
            "num_warps": WARPS,
            "num_stages": PRODUCT_STAGES,
        }
