"""Sums in several buckets over real ranks: in time, the same bits, and equal to one rank with all micro-batches."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.loading.batch import Batch
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training import state
from imagesprint.training.state import ALIGNMENT, StepSums, TrainingState
from imagesprint.training.step import TrainingStep

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = tuple("abcdefg")  # an odd number: the gradients behind the head's bias need padding
WHOLE = Phase((1, 2), (0.1, 0.1), "constant", 32, 8, 16)
FROZEN = Phase((0, 1), (0.1, 0.1), "constant", 32, 8, 16, freeze="stages 1")
RECIPE = Recipe(name="test", model="resnet20", precision="fp64", phases=(FROZEN, WHOLE))

# Rank RANK of 2: two steps, the first with frozen parts, with the reduction during the backward pass, then the same
# with it afterwards.
PROGRAM = """
import sys, torch
from imagesprint.loading.batch import Batch
from imagesprint.recipes.serialization import from_toml
from imagesprint.runs.ranks import open_ranks
from imagesprint.training import state as module
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

module.BUCKET_BYTES = 40_000
recipe = from_toml(open(sys.argv[1] + "/recipe.toml").read(), "recipe")
given = torch.load(sys.argv[1] + "/batches.pt")
with open_ranks("cpu") as ranks:
    saved = {}
    for overlapping in (True, False):
        state = TrainingState(recipe, tuple("abcdefg"), ranks.device)
        sums, reduce, early, used = state.sums, state.sums.reduce, [], []
        sums.reduce = lambda ranks: (early.append(len(sums._waits)), used.append(sums._num_used), reduce(ranks))
        if not overlapping:
            sums.overlap = lambda ranks: None
        feed = (Batch(*tensors, 0, torch.empty((8, 0))) for tensors in given[ranks.rank::2])
        step = TrainingStep(state, ranks)
        metrics = [step(feed, phase, 0.1).clone() for phase in recipe.phases]
        saved[overlapping] = {"model": state.network.state_dict(), "metrics": metrics, "early": early, "used": used,
                              "buckets": len(sums._buckets)}
    torch.save(saved, f"{sys.argv[1]}/rank{ranks.rank}.pt")
"""


def test_buckets_cover_all_sums_in_the_order_of_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BUCKET_BYTES", 40_000)
    network = TrainingState(RECIPE, CLASSES, ALONE.device).network
    sums = StepSums(network)
    assert sum(bucket.numel() for bucket in sums._buckets) == sums._flat.numel()
    assert len(sums._buckets) > 5
    assert all(bucket.numel() * 8 >= 40_000 for bucket in sums._buckets[:-1])
    places = [gradient.storage_offset() for gradient in sums.gradients]
    assert places == sorted(places)
    assert sums.gradients[0].data_ptr() == network.get_parameter("fc.bias").grad.data_ptr()  # type: ignore[union-attr]
    assert all(gradient.data_ptr() % ALIGNMENT == 0 for gradient in (*sums.gradients, *sums._buckets))


@pytest.fixture(scope="module")
def two_ranks(
    batches: Callable[[int], list[Batch]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[bool, dict[str, Any]]]:
    from imagesprint.recipes.serialization import to_toml

    folder = tmp_path_factory.mktemp("sums")
    (folder / "recipe.toml").write_text(to_toml(RECIPE))
    given = [(batch.images, batch.labels, batch.sample_ids, batch.mask) for batch in batches(8)]
    torch.save(given, folder / "batches.pt")
    _run(folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def _run(folder: Path) -> None:
    import os

    environment = os.environ | {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "IMAGESPRINT_STORE": str(folder / "store"),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]


def test_buckets_are_summed_while_the_backward_pass_goes_on(two_ranks: list[dict[bool, dict[str, Any]]]) -> None:
    for rank in two_ranks:
        assert rank[True]["early"] == rank[True]["used"]  # none was left when the backward pass had ended
        assert rank[True]["used"] == [rank[True]["buckets"] - 2, rank[True]["buckets"]]  # the frozen parts' are zero
        assert rank[False]["early"] == [0, 0]


def test_no_bit_depends_on_when_a_bucket_is_summed(two_ranks: list[dict[bool, dict[str, Any]]]) -> None:
    reference = two_ranks[0][True]
    for rank in two_ranks:
        for done in rank.values():
            torch.testing.assert_close(done["model"], reference["model"], rtol=0, atol=0)
            torch.testing.assert_close(done["metrics"], reference["metrics"], rtol=0, atol=0)


def test_two_ranks_equal_one_with_all_micro_batches(
    two_ranks: list[dict[bool, dict[str, Any]]], batches: Callable[[int], list[Batch]]
) -> None:
    state = TrainingState(RECIPE, CLASSES, ALONE.device)
    step, feed = TrainingStep(state, ALONE), iter(batches(8))
    metrics = [step(feed, phase, 0.1).clone() for phase in RECIPE.phases]
    torch.testing.assert_close(two_ranks[1][True]["metrics"], metrics, rtol=1e-10, atol=0)
    torch.testing.assert_close(two_ranks[1][True]["model"], dict(state.network.state_dict()), rtol=1e-9, atol=1e-10)


def test_momenta_of_their_own(batches: Callable[[int], list[Batch]]) -> None:
    """A network of somebody else's may have norms of different momentum."""
    state = TrainingState(replace(RECIPE, precision="fp32"), CLASSES, ALONE.device)
    network = state.network
    network.get_submodule("bn1").momentum = 0.5  # type: ignore[assignment]
    state.sums = StepSums(network)
    TrainingStep(state, ALONE)(iter(batches(4)), WHOLE, 0.1)
    for name, momentum in (("bn1", 0.5), ("layer1.0.bn1", 0.1)):
        moved = network.get_buffer(f"{name}.running_var")
        assert not torch.equal(moved, torch.ones_like(moved))
        mean = (moved - (1 - momentum)) / momentum  # of the micro-batches, which are alike
        torch.testing.assert_close(mean, network.get_buffer(f"{name}.batch_var"), rtol=0.5, atol=0)


def test_gradients_added_at_once_are_those_of_a_backward_pass() -> None:
    images, sums = torch.randn(4, 16, 16, 3).permute(0, 3, 1, 2), []
    for at_once in (True, False):
        state = TrainingState(replace(RECIPE, precision="fp32"), CLASSES, ALONE.device)
        for _ in range(2):
            loss = state.network(images).square().mean()
            if at_once:
                state.sums.add_gradients(loss)
            else:
                torch.autograd.backward(loss)
        sums.append(state.sums._flat)
    assert sums[0].any()
    assert torch.equal(*sums)
