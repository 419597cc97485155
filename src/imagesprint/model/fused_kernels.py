"""Triton kernels for batch norm, residual addition and ReLU in training, over activations as rows × channels.

What is laid out as channels_last is a matrix of N·H·W rows and C channels, row after row. Sums over rows are made in
two stages without atomic additions: each program adds up tiles of its own into one row of partial results, then those
are added; so the same input gives the same bits. All arithmetic is in float32, of float64 inputs in float64.

Tiles hold 4,096 values: sixteen for each of 256 threads, which is two 16-byte loads of bf16 from each operand in
flight. Compiled for sm_90 the sums take 64 to 99 registers a thread (benchmarks/kernel_registers.py), so two to four
programs share a multiprocessor, and PROGRAMS, 512, is one or two waves on an H200's 132. It is a constant so that no
bit depends on the GPU's size.
"""

from typing import Final

import triton
import triton.language as tl

TILE: Final = 4096
POOL_TILE: Final = 2048  # with its windows a larger one would take the registers of a whole multiprocessor
MAX_BLOCK_CHANNELS: Final = 128  # 256 bytes of bf16: whole cache lines
PROGRAMS: Final = 512
WARPS: Final = 8
PRODUCT_ROWS: Final = 128  # of a tile of product_kernels.py, which gives the statistics of as many rows
COMBINED_PARTS: Final = 256  # partial results that are combined at once,
COMBINED_CHANNELS: Final = 16  # and a program's share of the channels: a tile
# Triton compiles a kernel anew for an argument that is one, that 16 divides and that it does not: of these no address's
# alignment depends, so one kernel does for all.
UNSPECIALISED: Final = ("rows", "pooled_rows", "parts", "height", "width")


@triton.jit
def _columns(channels, BLOCK_CHANNELS: tl.constexpr):
    """This program's place among those for the same channels, and its channels; neighbours share rows."""
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    program = tl.program_id(0)
    return program // blocks, (program % blocks) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)


@triton.jit
def _tile(block, columns, rows, channels, BLOCK_ROWS: tl.constexpr):
    """Offsets of a tile's values, 64 bits wide as an activation may have more than 2³¹, and which of them exist."""
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    exists = (row < rows)[:, None] & (columns < channels)[None, :]
    return row.to(tl.int64)[:, None] * channels + columns[None, :], exists


@triton.jit
def _rows_of(part, parts, rows, BLOCK_ROWS: tl.constexpr):
    """How many rows a program adds up that takes the blocks part, part + parts, …: only the last may be cut short."""
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    whole = ((blocks - 1 - part) // parts + 1) * BLOCK_ROWS
    return whole - tl.where((blocks - 1) % parts == part, blocks * BLOCK_ROWS - rows, 0)


@triton.jit(do_not_specialize=UNSPECIALISED)
def statistics_kernel(
    x, means, deviations, rows, channels, parts, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr
):  # fmt: skip
    """Write mean and sum of squared deviations of each part of `rows` into means, deviations [parts, channels]."""
    part, columns = _columns(channels, BLOCK_CHANNELS)
    count = _rows_of(part, parts, rows, BLOCK_ROWS).to(F)
    # Deviations from about the mean: sums of plain squares cancel out where the mean is far from zero.
    offsets, exists = _tile(part, columns, rows, channels, BLOCK_ROWS)
    first = tl.load(x + offsets, mask=exists, other=0.0).to(F)
    shift = tl.sum(first, axis=0) / tl.minimum(count, BLOCK_ROWS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), F)
    squares = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), F)
    for block in range(part, tl.cdiv(rows, BLOCK_ROWS), parts):
        offsets, exists = _tile(block, columns, rows, channels, BLOCK_ROWS)
        value = tl.load(x + offsets, mask=exists, other=0.0).to(F)
        value = tl.where(exists, value - shift[None, :], 0.0)
        total += value
        squares += value * value
    moved = tl.sum(total, axis=0) / count
    here = part * channels + columns
    tl.store(means + here, shift + moved, mask=columns < channels)
    tl.store(deviations + here, tl.sum(squares, axis=0) - moved * moved * count, mask=columns < channels)


@triton.jit(do_not_specialize=UNSPECIALISED)
def combine_kernel(
    means, deviations, mean, variance, inverse, rows, channels, parts, eps,
    BLOCK_ROWS: tl.constexpr, BLOCK_PARTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Combine the parts (Chan et al. 1979): mean, unbiased variance and 1 / √(variance + eps), each [channels]."""
    columns = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = columns < channels
    # Taken from the first part's mean, for the same reason as above
    shift = tl.load(means + columns, mask=inside, other=0.0)
    total = tl.zeros((BLOCK_PARTS, BLOCK_CHANNELS), F)
    squares = tl.zeros((BLOCK_PARTS, BLOCK_CHANNELS), F)
    for start in range(0, parts, BLOCK_PARTS):
        part = start + tl.arange(0, BLOCK_PARTS)
        exists = (part < parts)[:, None] & inside[None, :]
        offsets = part[:, None] * channels + columns[None, :]
        count = tl.where(part < parts, _rows_of(part, parts, rows, BLOCK_ROWS), 0).to(F)[:, None]
        moved = tl.where(exists, tl.load(means + offsets, mask=exists, other=0.0) - shift[None, :], 0.0)
        total += moved * count
        squares += tl.load(deviations + offsets, mask=exists, other=0.0) + moved * moved * count
    offset = tl.sum(total, axis=0) / rows
    deviation = tl.sum(squares, axis=0) - offset * offset * rows
    deviation = tl.where(deviation < 0, 0.0, deviation)  # by rounding; a not-a-number stays one
    tl.store(mean + columns, shift + offset, mask=inside)
    tl.store(variance + columns, deviation / (rows - 1), mask=inside)
    tl.store(inverse + columns, 1 / tl.sqrt(deviation / rows + eps), mask=inside)


@triton.jit
def scaled(value, columns, channels, mean, inverse, weight, bias, F: tl.constexpr):
    """A tile normalised, scaled and shifted: the same operations in the forward and in the backward pass."""
    inside = columns < channels
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(F) * tl.load(inverse + columns, mask=inside, other=0.0)
    shift = tl.load(bias + columns, mask=inside, other=0.0).to(F)
    centre = tl.load(mean + columns, mask=inside, other=0.0)
    return (value - centre[None, :]) * scale[None, :] + shift[None, :]


@triton.jit
def _bytes(row, columns, rows, channels, BLOCK_CHANNELS: tl.constexpr):
    """Offsets of the bytes [rows, channels / 8] with a bit for each of a tile's values, and which of them exist."""
    byte = tl.min(columns, axis=0) // 8 + tl.arange(0, BLOCK_CHANNELS // 8)
    of_row = tl.cdiv(channels, 8)
    return row.to(tl.int64)[:, None] * of_row + byte[None, :], (row < rows)[:, None] & (byte < of_row)[None, :]


@triton.jit
def kept_tile(kept, row, columns, rows, channels, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Where ReLU let a tile's values pass, from the bits that normalise_kernel wrote into kept."""
    offsets, exists = _bytes(row, columns, rows, channels, BLOCK_CHANNELS)
    bits = tl.load(kept + offsets, mask=exists, other=0)
    bits = (bits[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(bits, (BLOCK_ROWS, BLOCK_CHANNELS)) != 0


@triton.jit(do_not_specialize=UNSPECIALISED)
def normalise_kernel(
    x, residual, mean, inverse, weight, bias, out, kept, rows, channels, ADD: tl.constexpr, RELU: tl.constexpr,
    KEEP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Write relu(weight · (x − mean) · inverse + bias + residual) into out; ADD and RELU say what of it there is.

    With KEEP bits say in kept where ReLU let values pass, each byte for eight channels beside each other.
    """
    block, columns = _columns(channels, BLOCK_CHANNELS)
    # From the last row to the first: those that were read last for the statistics are still in the cache.
    block = tl.cdiv(rows, BLOCK_ROWS) - 1 - block
    offsets, exists = _tile(block, columns, rows, channels, BLOCK_ROWS)
    value = tl.load(x + offsets, mask=exists, other=0.0).to(F)
    value = scaled(value, columns, channels, mean, inverse, weight, bias, F)
    if ADD:
        value += tl.load(residual + offsets, mask=exists, other=0.0).to(F)
    if KEEP:
        passes = tl.reshape((value <= 0).to(tl.int32) ^ 1, (BLOCK_ROWS, BLOCK_CHANNELS // 8, 8))
        bits = tl.sum(passes << tl.arange(0, 8)[None, None, :], axis=2).to(tl.uint8)
        row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        places, exist = _bytes(row, columns, rows, channels, BLOCK_CHANNELS)
        tl.store(kept + places, bits, mask=exist)
    if RELU:
        value = tl.where(value <= 0, 0.0, value)  # tl.maximum would make zeros of not-a-numbers
    tl.store(out + offsets, value.to(out.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=UNSPECIALISED)
def normalise_pool_kernel(
    x, mean, inverse, weight, bias, out, places, pooled_rows, channels, height, width,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Write the largest of relu(weight · (x − mean) · inverse + bias) in each window of 3 × 3 pixels, two apart and
    with one pixel of nothing around an image of `height` × `width`, into out, and its place in the window into places.
    """
    block, columns = _columns(channels, BLOCK_CHANNELS)
    block = tl.cdiv(pooled_rows, BLOCK_ROWS) - 1 - block  # as in normalise_kernel
    offsets, exists = _tile(block, columns, pooled_rows, channels, BLOCK_ROWS)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    across, down = (width + 1) // 2, (height + 1) // 2
    left, top, image = 2 * (row % across) - 1, 2 * (row // across % down) - 1, row // (across * down)
    best = tl.full((BLOCK_ROWS, BLOCK_CHANNELS), float("-inf"), F)
    place = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.int8)
    for step in tl.static_range(9):
        y, x_ = top + step // 3, left + step % 3
        there = (y >= 0) & (y < height) & (x_ >= 0) & (x_ < width)
        at = ((image.to(tl.int64) * height + y) * width + x_)[:, None] * channels + columns[None, :]
        seen = exists & there[:, None]
        value = scaled(tl.load(x + at, mask=seen, other=0.0).to(F), columns, channels, mean, inverse, weight, bias, F)
        value = tl.where(value <= 0, 0.0, value).to(out.dtype.element_ty).to(F)
        better = seen & ((value > best) | (value != value))  # the first of equal ones, or what is no number
        best = tl.where(better, value, best)
        place = tl.where(better, step, place).to(tl.int8)
    tl.store(out + offsets, best.to(out.dtype.element_ty), mask=exists)
    tl.store(places + offsets, place, mask=exists)


@triton.jit
def _unpooled(
    gradient, places, block, columns, rows, channels, height, width,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of what normalise_pool_kernel pooled: gathered, so without atomic additions."""
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    exists = (row < rows)[:, None] & (columns < channels)[None, :]
    x, y, image = row % width, row // width % height, row // (width * height)
    across, down = (width + 1) // 2, (height + 1) // 2
    g = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), F)
    for window in tl.static_range(4):  # a pixel of odd coordinates lies in two windows each way
        beyond_y, beyond_x = window // 2, window % 2
        pooled_y, pooled_x = y // 2 + beyond_y, x // 2 + beyond_x
        there = (
            (pooled_y < down)
            & (pooled_x < across)
            & ((y % 2 == 1) | (beyond_y == 0))
            & ((x % 2 == 1) | (beyond_x == 0))
        )
        at = ((image.to(tl.int64) * down + pooled_y) * across + pooled_x)[:, None] * channels + columns[None, :]
        seen = exists & there[:, None]
        mine = (y - 2 * pooled_y + 1) * 3 + x - 2 * pooled_x + 1
        chosen = tl.load(places + at, mask=seen, other=-1) == mine[:, None]
        g += tl.where(chosen, tl.load(gradient + at, mask=seen, other=0.0).to(F), 0.0)
    return g


@triton.jit(do_not_specialize=UNSPECIALISED)
def gradient_sums_kernel(
    gradient, x, kept, places, mean, inverse, weight, bias, masked, sums, rows, channels, parts, height, width,
    MASK_BY_X: tl.constexpr, MASK_BY_BITS: tl.constexpr, POOLED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Write the sums of the gradient g and of g · (x − mean) over each part of `rows` into sums [parts, 2, channels].

    Where ReLU gave zero g is zero. MASK_BY_X computes again what ReLU was given, MASK_BY_BITS reads it from kept, and
    writes g into masked. If POOLED, `gradient` is that of normalise_pool_kernel's output.
    """
    part, columns = _columns(channels, BLOCK_CHANNELS)
    inside = columns < channels
    centre = tl.load(mean + columns, mask=inside, other=0.0)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), F)
    product = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), F)
    for block in range(part, tl.cdiv(rows, BLOCK_ROWS), parts):
        offsets, exists = _tile(block, columns, rows, channels, BLOCK_ROWS)
        value = tl.load(x + offsets, mask=exists, other=0.0).to(F)
        if POOLED:
            g = _unpooled(
                gradient, places, block, columns, rows, channels, height, width, BLOCK_ROWS, BLOCK_CHANNELS, F
            )
        else:
            g = tl.load(gradient + offsets, mask=exists, other=0.0).to(F)
        if MASK_BY_X:
            g = tl.where(scaled(value, columns, channels, mean, inverse, weight, bias, F) <= 0, 0.0, g)
        if MASK_BY_BITS:
            row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
            g = tl.where(kept_tile(kept, row, columns, rows, channels, BLOCK_ROWS, BLOCK_CHANNELS), g, 0.0)
            tl.store(masked + offsets, g.to(masked.dtype.element_ty), mask=exists)
        total += g
        product += g * (value - centre[None, :])
    here = 2 * part * channels + columns
    tl.store(sums + here, tl.sum(total, axis=0), mask=inside)
    tl.store(sums + here + channels, tl.sum(product, axis=0), mask=inside)


@triton.jit(do_not_specialize=UNSPECIALISED)
def total_kernel(
    partial, inverse, sums, weight_gradient, bias_gradient, channels, parts,
    BLOCK_PARTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Add up the `parts` of gradient_sums_kernel into sums [2, channels], and write what follows from them alone."""
    columns = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = columns < channels
    total = tl.zeros((BLOCK_PARTS, BLOCK_CHANNELS), F)
    product = tl.zeros((BLOCK_PARTS, BLOCK_CHANNELS), F)
    for start in range(0, parts, BLOCK_PARTS):
        part = start + tl.arange(0, BLOCK_PARTS)
        exists = (part < parts)[:, None] & inside[None, :]
        here = partial + 2 * part[:, None] * channels + columns[None, :]
        total += tl.load(here, mask=exists, other=0.0)
        product += tl.load(here + channels, mask=exists, other=0.0)
    of_g, of_product = tl.sum(total, axis=0), tl.sum(product, axis=0)
    scale = tl.load(inverse + columns, mask=inside, other=0.0)
    tl.store(sums + columns, of_g, mask=inside)
    tl.store(sums + channels + columns, of_product, mask=inside)
    tl.store(bias_gradient + columns, of_g.to(bias_gradient.dtype.element_ty), mask=inside)
    tl.store(weight_gradient + columns, (of_product * scale).to(weight_gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=UNSPECIALISED)
def input_gradient_kernel(
    gradient, x, places, mean, inverse, weight, bias, sums, out, rows, channels, height, width,
    MASK_BY_X: tl.constexpr, POOLED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x into out, from g and the sums [2, channels] of gradient_sums_kernel over all rows."""
    block, columns = _columns(channels, BLOCK_CHANNELS)
    block = tl.cdiv(rows, BLOCK_ROWS) - 1 - block  # as in normalise_kernel
    inside = columns < channels
    offsets, exists = _tile(block, columns, rows, channels, BLOCK_ROWS)
    value = tl.load(x + offsets, mask=exists, other=0.0).to(F)
    if POOLED:
        g = _unpooled(gradient, places, block, columns, rows, channels, height, width, BLOCK_ROWS, BLOCK_CHANNELS, F)
    else:
        g = tl.load(gradient + offsets, mask=exists, other=0.0).to(F)
    if MASK_BY_X:
        g = tl.where(scaled(value, columns, channels, mean, inverse, weight, bias, F) <= 0, 0.0, g)
    centre = tl.load(mean + columns, mask=inside, other=0.0)
    inverted = tl.load(inverse + columns, mask=inside, other=0.0)
    mean_g = tl.load(sums + columns, mask=inside, other=0.0) / rows
    slope = tl.load(sums + channels + columns, mask=inside, other=0.0) / rows * inverted * inverted
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(F) * inverted
    g = (g - mean_g[None, :] - (value - centre[None, :]) * slope[None, :]) * scale[None, :]
    tl.store(out + offsets, g.to(out.dtype.element_ty), mask=exists)
