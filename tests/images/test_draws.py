import hashlib

import numpy as np
import pytest

from imagesprint.images.draws import CROP, FLIP, below, permutation, philox, sample_bits, uniform

# kat_vectors of Random123 1.14 (D. E. Shaw Research), philox4x32 10
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    words = np.array([[int(word, 16)] for word in counter.split()], np.uint32)
    low, high = (int(word, 16) for word in key.split())
    assert [f"{word:08x}" for word in philox(words, high << 32 | low)[:, 0]] == expected.split()


def test_philox_treats_each_column_alone() -> None:
    columns = np.random.default_rng(0).integers(0, 1 << 32, (4, 40_000), np.uint32)  # more than one chunk
    together = philox(columns, 12345)
    assert together.dtype == np.uint32
    for i in (0, 16_383, 16_384, 39_999):
        np.testing.assert_array_equal(together[:, i], philox(columns[:, i : i + 1], 12345)[:, 0])
    assert philox(np.empty((4, 0), np.uint32), 0).shape == (4, 0)


def test_every_part_of_the_counter_changes_the_bits() -> None:
    ids = np.array([7])
    variants = [(0, 0, 0, CROP), (1, 0, 0, CROP), (1 << 40, 0, 0, CROP), (0, 1, 0, CROP), (0, 0, 1, CROP)]
    drawn = {sample_bits(seed, epoch, ids, block, p).tobytes() for seed, epoch, block, p in variants}
    drawn.add(sample_bits(0, 0, ids, 0, FLIP).tobytes())
    drawn.add(sample_bits(0, 0, np.array([8]), 0, CROP).tobytes())
    assert len(drawn) == len(variants) + 2


def test_uniform_and_below_stay_in_their_range() -> None:
    ends = np.array([0, 1, 0x80000000, 0xFFFFFFFF], np.uint32)
    assert uniform(ends).tolist() == [0.0, 2.0**-32, 0.5, 1 - 2.0**-32]
    assert below(ends, 10).tolist() == [0, 0, 5, 9]
    assert below(ends, np.array([1, 2, 3, 2**31 - 1])).tolist() == [0, 0, 1, 2**31 - 2]
    assert not below(ends, 1).any()


def test_draws_are_uniform() -> None:
    bits = sample_bits(3, 5, np.arange(100_000), 0, CROP)
    for word in bits:
        counts = np.bincount(below(word, 10), minlength=10)
        assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001
    assert abs(uniform(bits[0]).mean() - 0.5) < 0.005


@pytest.mark.parametrize("n", [1, 2, 3, 255, 256, 257, 10_007])
def test_permutation_holds_each_sample_once(n: int) -> None:
    order = permutation(n, seed=1, epoch=2)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_permutations_of_other_epochs_and_seeds_differ() -> None:
    orders = [permutation(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.1
    assert (permutation(1000, 0, 1) == orders[1]).all()


def test_every_place_is_equally_likely() -> None:
    counts = np.zeros((4, 4))
    for epoch in range(2000):
        counts[np.arange(4), permutation(4, 0, epoch)] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_the_order_never_changes_unnoticed() -> None:
    assert permutation(10, 0, 0).tolist() == [4, 5, 0, 7, 3, 1, 6, 8, 9, 2]
    assert (
        hashlib.sha256(permutation(100_003, 42, 7).astype("<i8").tobytes()).hexdigest()
        == "03ddaabe66e91ac229d62b50e4c60c56399efb47f37b4f9a0980377a533ee50b"
    )
