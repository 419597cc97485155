"""Triton kernels for 1×1 convolutions as matrix products, with work of the batch norms around them in the same pass.

An activation in channels_last is a matrix of rows × channels, as in fused_kernels.py. Each program makes one tile of a
product and sums up over its rows what batch norm needs, so the same input gives the same bits. Operands are multiplied
as they are and summed in float32 (float64 ones in float64), then rounded once; the sums are of what was rounded.

Programs beside each other have the same rows: those are read from memory once, and the weights stay in the cache.
"""

from typing import Final

import triton
import triton.language as tl

from imagesprint.model.fused_kernels import UNSPECIALISED, kept_tile, scaled

MAX_PRODUCT_COLUMNS: Final = 128
PRODUCT_DEPTH: Final = 64
PRODUCT_STAGES: Final = 3  # loads under way, 96 KiB of a multiprocessor's 227
# Of float64 those would be 256 KiB, and more registers than there are.
FLOAT64_COLUMNS: Final = 64
FLOAT64_DEPTH: Final = 32


@triton.jit
def _program(columns_all, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """This program's block of rows, and its rows and columns."""
    column_blocks = tl.cdiv(columns_all, BLOCK_COLUMNS)
    block = tl.program_id(0) // column_blocks
    columns = (tl.program_id(0) % column_blocks) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    return block, block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS), columns


@triton.jit
def _product(
    a, b, row, column, rows, columns, depth, b_row, b_column,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_DEPTH: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """The tile at `row` and `column` of a [rows, depth] · b [depth, columns], of which b has the strides given."""
    inner = tl.arange(0, BLOCK_DEPTH)
    left = a + row.to(tl.int64)[:, None] * depth + inner[None, :]
    right = b + inner[:, None] * b_row + column[None, :] * b_column
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), F)
    for start in range(0, depth, BLOCK_DEPTH):
        exists = inner < depth - start
        x = tl.load(left, mask=(row < rows)[:, None] & exists[None, :], other=0.0)
        y = tl.load(right, mask=exists[:, None] & (column < columns)[None, :], other=0.0)
        total = tl.dot(x, y, total, input_precision="ieee", out_dtype=F)
        left += BLOCK_DEPTH
        right += BLOCK_DEPTH * b_row
    return total


@triton.jit(do_not_specialize=UNSPECIALISED)
def product_statistics_kernel(
    x, weight, out, means, deviations, rows, inputs, outputs,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_DEPTH: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Write x [rows, inputs] · weight [outputs, inputs]ᵀ into out, and mean and sum of squared deviations of each block
    of its rows into means, deviations [blocks, outputs].
    """
    block, row, column = _program(outputs, BLOCK_ROWS, BLOCK_COLUMNS)
    value = _product(
        x, weight, row, column, rows, outputs, inputs, 1, inputs, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_DEPTH, F
    ).to(out.dtype.element_ty)
    exists = (row < rows)[:, None] & (column < outputs)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * outputs + column[None, :], value, mask=exists)
    value = value.to(F)
    mean = tl.sum(value, axis=0) / tl.minimum(rows - block * BLOCK_ROWS, BLOCK_ROWS)  # rows that do not exist are zero
    apart = tl.where((row < rows)[:, None], value - mean[None, :], 0.0)
    here = block * outputs + column
    tl.store(means + here, mean, mask=column < outputs)
    tl.store(deviations + here, tl.sum(apart * apart, axis=0), mask=column < outputs)


@triton.jit(do_not_specialize=UNSPECIALISED)
def product_gradient_kernel(
    gradient, weight, added, kept, x, mean, inverse, norm_weight, norm_bias, masked, sums, rows, inputs, outputs,
    ADD: tl.constexpr, MASK_BY_BITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_DEPTH: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Write g, gradient [rows, outputs] · weight [outputs, inputs] + added where ReLU's output was above zero, else 0,
    into masked, and the sums of g and of g · (x − mean) over each block of rows into sums [blocks, 2, inputs].

    ADD says whether something is added. Where ReLU gave zero is read from kept with MASK_BY_BITS, else computed again
    from x, which batch norm was given.
    """
    block, row, column = _program(inputs, BLOCK_ROWS, BLOCK_COLUMNS)
    g = _product(
        gradient, weight, row, column, rows, inputs, outputs, inputs, 1, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_DEPTH, F
    )
    inside = column < inputs
    exists = (row < rows)[:, None] & inside[None, :]
    offsets = row.to(tl.int64)[:, None] * inputs + column[None, :]
    if ADD:
        g += tl.load(added + offsets, mask=exists, other=0.0).to(F)
    value = tl.load(x + offsets, mask=exists, other=0.0).to(F)
    if MASK_BY_BITS:
        g = tl.where(kept_tile(kept, row, column, rows, inputs, BLOCK_ROWS, BLOCK_COLUMNS), g, 0.0)
    else:
        g = tl.where(scaled(value, column, inputs, mean, inverse, norm_weight, norm_bias, F) <= 0, 0.0, g)
    rounded = g.to(masked.dtype.element_ty)
    tl.store(masked + offsets, rounded, mask=exists)
    g = rounded.to(F)  # zero in rows that do not exist
    centre = tl.load(mean + column, mask=inside, other=0.0)
    here = 2 * block * inputs + column
    tl.store(sums + here, tl.sum(g, axis=0), mask=inside)
    tl.store(sums + here + inputs, tl.sum(g * (value - centre[None, :]), axis=0), mask=inside)
