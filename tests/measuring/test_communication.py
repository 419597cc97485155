"""The model of communication, and the table in docs/scaling.md that it fills."""

import re
from pathlib import Path

import pytest
import torch

from imagesprint.measuring.communication import (
    ETHERNET_100G,
    NDR,
    NVLINK4,
    Link,
    all_reduce,
    efficiency,
    ring_all_reduce,
)
from imagesprint.recipes.library import load_recipe
from imagesprint.training.state import TrainingState

DOCUMENT = (Path(__file__).parents[2] / "docs/scaling.md").read_text(encoding="utf-8")
FULL = 102_440_624
LINK = Link("test", 1e9, 1e-3)


def test_a_ring_sends_twice_all_but_one_share() -> None:
    assert ring_all_reduce(10**9, 1, LINK) == 0
    assert ring_all_reduce(10**9, 2, LINK) == pytest.approx(1.0 + 2e-3)
    assert ring_all_reduce(10**9, 4, LINK) == pytest.approx(1.5 + 6e-3)


def test_nodes_send_a_share_between_them() -> None:
    fast = Link("fast", 1e12, 0.0)
    assert all_reduce(8 * 10**9, 8, LINK, fast) == ring_all_reduce(8 * 10**9, 8, LINK)
    assert all_reduce(8 * 10**9, 16, fast, LINK) == pytest.approx(0.014 + 1.002)


def test_only_what_the_backward_pass_does_not_hide_costs() -> None:
    assert efficiency(3.0, 1.0) == 0.75
    assert efficiency(3.0, 1.0, hidden=2.0) == 1.0
    assert efficiency(3.0, 2.0, hidden=1.0) == 0.75


def test_the_flat_tensor_is_as_large_as_the_document_says() -> None:
    sums = TrainingState(load_recipe("minutes104"), tuple(map(str, range(1000))), torch.device("cpu")).sums
    assert sums.metrics.untyped_storage().nbytes() == FULL
    assert f"{FULL:,} bytes" in DOCUMENT


def test_the_table_of_the_document_is_what_the_model_gives() -> None:
    rows = re.findall(
        r"^\| (NVLink 4.*?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+%) \| ([\d.]+%) \|$", DOCUMENT, re.MULTILINE
    )
    assert [row[1] for row in rows] == ["8", "64", "1,024", "64", "1,024"]
    compute = 256 / 5500
    for links, ranks, milliseconds, plain, hidden in rows:
        outer = ETHERNET_100G if ETHERNET_100G.name in links else NDR
        seconds = all_reduce(FULL, int(ranks.replace(",", "")), NVLINK4, outer)
        assert milliseconds == f"{1e3 * seconds:.2f}"
        assert (plain, hidden) == (
            f"{efficiency(compute, seconds):.1%}",
            f"{efficiency(compute, seconds, 2 / 3 * compute):.1%}",
        )
