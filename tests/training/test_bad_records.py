"""A bad record stops a training, or others stand in for it, which is counted and told, over resumes and ranks."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.images.draws import permutation
from imagesprint.records.dataset import open_dataset

Run = Callable[..., Any]
# The tiny recipe takes 64 of 70 images an epoch: four epochs from each variant. Each place that asks for the bad one
# counts, at times a place of the six that are left out does.
BAD = 11


@pytest.fixture(scope="module")
def root(photo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose record 11 is bad in the variant 32, the one that is trained on at first."""
    root = Path(shutil.copytree(photo_root, tmp_path_factory.mktemp("bad-records") / "root"))
    places = open_dataset(root, "32", "train").places(np.array([BAD]))
    shard = places.path(0)
    content = bytearray(shard.read_bytes())
    content[int(places.offsets[0] + places.lengths[0] // 2)] ^= 1
    shard.write_bytes(content)
    return root


def occurrences(seed: int, steps: int) -> int:
    """How often the sample is among those of the first `steps` steps; the last four epochs read the sound variant."""
    return sum(
        BAD in permutation(70, seed, epoch)[: 16 * min(4, steps - 4 * epoch)].tolist()
        for epoch in range(min(4, -(-steps // 4)))
    )


def final(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(sorted((run / "checkpoints").glob("*.pt"))[-1], weights_only=True)
    return content


def test_a_run_that_was_stopped_goes_on_with_substitutes_and_counts_them_once(
    imagesprint: Run, root: Path, tiny: Path, tmp_path: Path
) -> None:
    seed = 0
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ("train", tiny, "--data", root, "--json", "--checkpoint-every", 1)
    stopped = imagesprint(*words, "--output", run)
    assert stopped.code == 1, stopped.stdout
    assert "32/train-" in stopped.json["error"]
    assert "--set bad_records=substitute" in stopped.json["hint"]
    assert list((run / "checkpoints").iterdir()), "no step came before the bad record: choose another one"

    substituting = (*words, "--set", "bad_records=substitute")
    first = imagesprint(*substituting, "--output", run, "--stop-after", 9)
    assert first.code == 0, first.stderr
    assert "resumed after step" in first.stderr
    assert first.json["bad_records"] == occurrences(seed, 9) > 0
    resumed = imagesprint(*substituting, "--output", run, "--stop-after", 14)
    assert resumed.code == 0, resumed.stderr
    expected = occurrences(seed, 14)
    assert resumed.json["bad_records"] == expected > first.json["bad_records"]
    assert final(run)["bad_records"] == expected

    at_once = imagesprint(*substituting, "--output", whole, "--stop-after", 14, "--processes", 2)
    assert at_once.code == 0, at_once.stderr
    assert at_once.json["bad_records"] == expected
    log = (whole / "log.txt").read_text()
    assert log.count("warning: bad record: ") == 1
    assert "CRC-32C; another stands in" in log
    assert f"warning: {expected} times so far in this run a record was bad and another stood in" in log
    ours, theirs = final(run)["model"], final(whole)["model"]
    assert all(torch.allclose(ours[key].double(), theirs[key].double(), rtol=1e-4, atol=1e-6) for key in ours)
