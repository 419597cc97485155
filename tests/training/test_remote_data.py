"""A training whose ROOT is a URL ends with the weights of one from the disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from imagesprint.storage.url import Url

STEPS = 6


def result(run: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The weights and the losses after STEPS steps."""
    content = torch.load(run / "checkpoints" / f"step-{STEPS:07d}.pt", weights_only=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return content["model"], [(row["step"], row["loss"], row["top1"]) for row in rows]


def test_from_a_store_a_training_that_was_interrupted_ends_with_the_bits_of_the_disk(
    imagesprint: Callable[..., Any],
    tiny: Path,
    photo_root: Path,
    root_url: Url,
    tmp_path: Path,
    kill_fetcher: Callable[[], bool],
) -> None:
    def train(data: Path | Url, run: str, stop_after: int, *words: object) -> str:
        done = imagesprint(
            "train", tiny, "--data", data, "--output", tmp_path / run, "--stop-after", stop_after, *words
        )
        assert done.code == 0, done.stderr
        return str(done.stderr)

    for stop_after in (3, STEPS):  # a row covers the steps since the last checkpoint
        train(photo_root, "disk", stop_after)
    train(root_url, "run", 3)
    kill_fetcher()
    # To the end from another cache, which has room for a few shards.
    said = train(root_url, "run", STEPS, "--cache", tmp_path / "small", "--cache-limit", "60KB")
    assert "resumed after step 3" in said
    (ours, our_rows), (theirs, their_rows) = result(tmp_path / "run"), result(tmp_path / "disk")
    assert our_rows == their_rows
    assert all(ours[name].equal(value) for name, value in theirs.items())
    assert 0 < sum(file.stat().st_size for file in (tmp_path / "small").rglob("*-0*")) <= 60_000
