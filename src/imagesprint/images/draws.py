"""Random draws that depend on nothing but (seed, epoch, sample, purpose): a counter-based generator.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a counter of
four 32-bit words and a 64-bit key into 128 random bits. The key is the recipe's seed; the counter's words are sample
id, epoch, block (or attempt) and purpose. No draw depends on another, so order, batching, ranks and restarts cannot
matter. Only integer arithmetic, so every processor and every numpy gives the same bits.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The fourth word of the counter. A number once given is never given to something else: streams would change unnoticed.
PERMUTATION: Final = 0
CROP: Final = 1
FLIP: Final = 2
ROUND: Final = 3  # the classes in a round of a balanced order
DEAL: Final = 4  # the samples of a class in one pass through them
FIRST_FREE, LAST = 16, 2**32 - 1  # what a BatchSpec's `draws` are for

# Multipliers and Weyl constants of Philox4x32, table 2 and section 3.3 of the paper; ten rounds pass BigCrush.
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_ROUNDS = 10

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_CHUNK = 1 << 14  # columns a pass: the intermediates of one chunk stay in the second-level cache


def philox(counters: NDArray[np.uint32], key: int) -> NDArray[np.uint32]:
    """128 random bits, uint32[4, N], for each column of `counters`, uint32[4, N]; `key` is taken modulo 2⁶⁴."""
    out = np.empty(counters.shape, np.uint32)
    for start in range(0, counters.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        out[:, part] = _philox(counters[:, part].astype(np.uint64), key)
    return out


def _philox(counters: NDArray[np.uint64], key: int) -> tuple[NDArray[np.uint64], ...]:
    """Overwrites `counters`: memory that is new to the cache would cost more than the arithmetic."""
    c0, c1, c2, c3 = counters
    high = np.empty_like(c0)
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(_ROUNDS):
        c0 *= _MULTIPLIER_0
        c2 *= _MULTIPLIER_1
        c1 ^= np.right_shift(c2, _32, out=high)
        c1 ^= np.uint64(k0)
        c3 ^= np.right_shift(c0, _32, out=high)
        c3 ^= np.uint64(k1)
        c0 &= _LOW
        c2 &= _LOW
        c0, c1, c2, c3 = c1, c2, c3, c0
        k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def sample_bits(
    seed: int,
    epochs: NDArray[np.int64] | int,
    sample_ids: NDArray[np.int64],
    blocks: NDArray[np.int64] | int,
    purpose: int,
) -> NDArray[np.uint32]:
    """uint32[4, N]: block `blocks` of each sample's draws for `purpose` in `epochs`, both one for all or int64[N]."""
    counters = np.empty((4, len(sample_ids)), np.uint32)
    counters[0] = sample_ids
    counters[1] = epochs
    counters[2] = blocks
    counters[3] = purpose
    return philox(counters, seed)


def uniform(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    """float64 in [0, 1), multiples of 2⁻³², of `bits`' shape."""
    return bits.astype(np.float64) * 2.0**-32


def sample_floats(
    seed: int, epochs: NDArray[np.int64] | int, sample_ids: NDArray[np.int64], draws: Sequence[tuple[int, int]]
) -> NDArray[np.float32]:
    """float32[N, K] in [0, 1), multiples of 2⁻²⁴: side by side, for each (purpose, count) of `draws`, `count` numbers
    of each sample in `epochs`. Number j is made of word j % 4 of block j // 4.
    """
    floats = np.empty((len(sample_ids), sum(count for _, count in draws)), np.float32)
    column = 0
    for purpose, count in draws:
        for number in range(count):
            if number % 4 == 0:
                bits = sample_bits(seed, epochs, sample_ids, number // 4, purpose)
            floats[:, column] = (bits[number % 4] >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
            column += 1
    return floats


def below(bits: NDArray[np.uint32], n: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """int64 in [0, n) of `bits`' shape; 1 ≤ n < 2³¹, a number or an array of that shape."""
    return (bits.astype(np.int64) * n) >> 32


def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of `n` samples (1 ≤ n < 2³²) in `epoch`: int64[n], each of 0 … n − 1 once."""
    order: NDArray[np.int64] = permutations(n, seed, range(epoch, epoch + 1))[0]
    return order


def permutations(
    n: int,
    seed: int,
    epochs: range | NDArray[np.int64],
    purpose: int = PERMUTATION,
    groups: NDArray[np.int64] | int = 0,
) -> NDArray[np.int64]:
    """The order of `n` samples (1 ≤ n < 2³²) in each of E `epochs`: int64[E, n], each row with 0 … n − 1 once.

    For each purpose, and each of `groups`, int64[E] or one for all, it is another one.

    Each sample draws a random key of 64 bits whose lower bits give way to its number. No two keys are then equal, so
    that whatever sort numpy chooses on this processor finds the same order; for the 1,281,167 images of ImageNet 43
    random bits are left, enough for less than one tie in ten epochs.
    """
    shape = (len(epochs), (n + 1) // 2)
    blocks = np.broadcast_to(np.arange(shape[1]), shape).reshape(-1)
    counted = np.repeat(epochs, shape[1])
    of_groups = np.repeat(np.broadcast_to(groups, len(epochs)), shape[1])
    bits = sample_bits(seed, counted, blocks, of_groups, purpose)
    keys = np.empty((len(blocks), 2), np.uint64)
    keys[:, 0] = bits[0].astype(np.uint64) << _32 | bits[1]
    keys[:, 1] = bits[2].astype(np.uint64) << _32 | bits[3]
    order = keys.reshape(len(epochs), -1)[:, :n]
    mask = np.uint64((1 << (n - 1).bit_length()) - 1)
    order &= ~mask
    order |= np.arange(n, dtype=np.uint64)
    order.sort()
    order &= mask
    return order.astype(np.int64)
