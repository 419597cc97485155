"""The model of an all-reduce in `benchmarks/all_reduce.py`, and the table of docs/scaling.md that it gives."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from imagesprint.recipes.library import load_recipe
from imagesprint.training.state import TrainingState

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
FULL = 102_440_624


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("all_reduce")


def test_a_ring_sends_twice_all_but_one_share(model: ModuleType) -> None:
    link = model.Link("test", 1e9, 1e-3)
    assert model.ring_all_reduce(10**9, 1, link) == 0
    assert model.ring_all_reduce(10**9, 2, link) == pytest.approx(1.0 + 2e-3)
    assert model.ring_all_reduce(10**9, 4, link) == pytest.approx(1.5 + 6e-3)


def test_nodes_send_a_share_between_them(model: ModuleType) -> None:
    link, fast = model.Link("test", 1e9, 1e-3), model.Link("fast", 1e12, 0.0)
    assert model.all_reduce(8 * 10**9, 8, link, fast) == model.ring_all_reduce(8 * 10**9, 8, link)
    assert model.all_reduce(8 * 10**9, 16, fast, link) == pytest.approx(0.014 + 1.002)


def test_only_what_the_backward_pass_does_not_hide_costs(model: ModuleType) -> None:
    assert model.efficiency(3.0, 1.0) == 0.75
    assert model.efficiency(3.0, 1.0, hidden=2.0) == 1.0
    assert model.efficiency(3.0, 2.0, hidden=1.0) == 0.75


def test_the_flat_tensor_is_as_large_as_the_document_says() -> None:
    sums = TrainingState(load_recipe("minutes104"), tuple(map(str, range(1000))), torch.device("cpu")).sums
    assert sums.metrics.untyped_storage().nbytes() == FULL
    assert f"{FULL:,} bytes" in DOCUMENT


def test_the_table_of_the_document_is_what_the_model_gives(model: ModuleType) -> None:
    rows = re.findall(
        r"^\| (NVLink 4.*?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+%) \| ([\d.]+%) \|$", DOCUMENT, re.MULTILINE
    )
    assert [row[1] for row in rows] == ["8", "64", "1,024", "64", "1,024"]
    compute = 256 / 5500
    for links, ranks, milliseconds, plain, hidden in rows:
        outer = model.ETHERNET_100G if model.ETHERNET_100G.name in links else model.NDR
        seconds = model.all_reduce(FULL, int(ranks.replace(",", "")), model.NVLINK4, outer)
        assert milliseconds == f"{1e3 * seconds:.2f}"
        assert (plain, hidden) == (
            f"{model.efficiency(compute, seconds):.1%}",
            f"{model.efficiency(compute, seconds, 2 / 3 * compute):.1%}",
        )
