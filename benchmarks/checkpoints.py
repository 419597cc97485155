"""What a checkpoint costs the training: ResNet-50 on this machine, blocks of steps with one and without in turns.

    python benchmarks/checkpoints.py [--pairs 6] [--steps 20] [--image-size 64] [--batch 16] [--json]

Steps are real ones on random pixels; the checkpoint, 205 MB, is begun before the first step of a block and is whole on
the disk before its end. Exits 3 where the median block takes 3% longer, or training waits 50 ms or more for one.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import torch

from imagesprint.loading.batch import Batch
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase
from imagesprint.runs.checkpoint_writer import CheckpointWriter, Written
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.snapshot import Snapshot
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

MAX_SLOWDOWN = 0.03
MAX_WAIT = 0.050  # seconds


def measure(pairs: int, steps: int, image_size: int, batch_size: int, run: Path) -> dict[str, object]:
    """Return the seconds of the blocks and what the writer says."""
    device = torch.device("cpu")
    ranks = Ranks(0, 1, 0, 1, device)
    phase = Phase((0, 1), (0.01, 0.01), "constant", batch_size, batch_size, image_size)
    recipe = replace(load_recipe("baseline90"), precision="fp32", phases=(phase,))
    state = TrainingState(recipe, tuple(map(str, range(1000))), device)
    images = torch.randint(0, 256, (batch_size, image_size, image_size, 3), dtype=torch.uint8)
    ids = torch.arange(batch_size)
    batches = cycle([Batch(images, ids, ids, torch.ones(batch_size, dtype=torch.bool), 0)])
    train_step, written = TrainingStep(state, ranks), list[Written]()
    with CheckpointWriter(run, Snapshot(state.checkpoint_like(), device), written.append) as writer:

        def block(with_checkpoint: bool) -> float:
            begun = time.perf_counter()
            if with_checkpoint:
                writer.save(state.checkpoint(1_281_167, "", ""))
            for _ in range(steps):
                train_step(batches, phase, 0.01)
            writer.finish()
            return time.perf_counter() - begun

        block(False)
        blocks = [[block(kind) for kind in ((False, True) if pair % 2 else (True, False))] for pair in range(pairs)]
    # In every second pair the block with a checkpoint came first.
    without, with_one = zip(*(times if pair % 2 else times[::-1] for pair, times in enumerate(blocks)), strict=True)
    return {
        "without": without,
        "with": with_one,
        "slowdown": statistics.median(b / a - 1 for a, b in zip(without, with_one, strict=True)),
        "waits": [one.waited for one in written],
        "writing": [one.seconds for one in written],
        "bytes": written[0].path.stat().st_size,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.pairs, args.steps, args.image_size, args.batch, Path(folder))
    slowdown, waits = found["slowdown"], found["waits"]
    assert isinstance(slowdown, float)
    assert isinstance(waits, list)
    if args.json:
        versions = {"torch": torch.__version__}
        print(json.dumps({"bench": "checkpoints", "device": "cpu", "precision": "fp32", "versions": versions, **found}))
    else:
        print(f"a block of {args.steps} steps with a checkpoint takes {slowdown:+.2%} (median of {args.pairs} pairs)")
        print(f"training waited {1e3 * min(waits):.0f} to {1e3 * max(waits):.0f} ms for one; seconds: {found}")
    return 0 if slowdown < MAX_SLOWDOWN and max(waits) < MAX_WAIT else 3


if __name__ == "__main__":
    sys.exit(main())
