"""What a checkpoint costs a training: `train` itself, where every second window of 20 steps begins with a checkpoint.

    python benchmarks/checkpoints.py [--pairs 7] [--steps 20] [--image-size 64] [--batch 48] [--json]

One run of ResNet-50 on the CPU, on generated photos, in which `--checkpoint-every` is two windows long: so those with a
checkpoint and those without take turns, under the same conditions; the first window warms up. A pair is one window
with, and the mean of the two without on either side of it, which takes out what drifts. The second measure is less
noisy: by how much the steps during which the checkpoint was being written were longer than the median of the others in
their own window. Exits 3 where the median pair is 3% apart or more, or training waited 50 ms or more for a checkpoint.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from photos import make_root

from imagesprint.checkpoints.retention import Retention
from imagesprint.console import Console
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.training import TrainingOptions, train

MAX_SLOWDOWN = 0.03
MAX_WAIT = 0.050  # seconds
IMAGES = 480


class Clock(Console):
    """A console that keeps the moment of each step, when `train` shows it, and what it notes of each checkpoint."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.moments: list[float] = []
        self.checkpoints: dict[int, tuple[float, float]] = {}  # by step: seconds waited for it, seconds it was written

    def live(self, text: str, last: bool = False) -> None:
        self.moments.append(time.perf_counter())
        super().live(text, last)

    def note(self, text: str) -> None:
        found = re.search(r"step-0*(\d+)\.pt: training waited ([\d.]+) ms, written in ([\d.]+) s", text)
        if found:
            self.checkpoints[int(found[1])] = float(found[2]) / 1e3, float(found[3])
        super().note(text)


@dataclass(frozen=True)
class Pair:
    """A window with a checkpoint beside those around it, in seconds; `lost` is the second measure."""

    without: float
    with_one: float
    lost: float
    waited: float
    writing: float

    @property
    def slowdown(self) -> float:
        return self.with_one / self.without - 1


def make_recipe(image_size: int, batch: int) -> Recipe:
    """Return one epoch after another at a small constant rate, without evaluations."""
    phase = Phase((0, 10**4), (1e-3, 1e-3), "constant", batch, batch, image_size, "full")
    return replace(load_recipe("baseline90"), precision="fp32", eval_every=0, phases=(phase,))


def measure(pairs: int, steps: int, image_size: int, batch: int, folder: Path) -> tuple[list[Pair], int]:
    """Run the training; return the pairs and the bytes of a checkpoint."""
    make_root(folder / "root", IMAGES, image_size * 5 // 4, ("full",))
    clock, every = Clock(), 2 * steps
    options = TrainingOptions(
        device="cpu", checkpoint_every=every, stop_after=every * (pairs + 1), keep=Retention(last=2), compile="off"
    )
    train(make_recipe(image_size, batch), folder / "root", folder / "run", options, clock)
    first = every * (pairs + 1) + 1 - len(clock.moments)  # the first steps are not shown: nothing is logged yet
    moment = dict(enumerate(clock.moments, first))
    found = [_pair(moment, step, steps, *clock.checkpoints[step]) for step in range(every, every * (pairs + 1), every)]
    return found, next((folder / "run" / "checkpoints").iterdir()).stat().st_size


def _pair(moment: dict[int, float], step: int, steps: int, waited: float, writing: float) -> Pair:
    """Return the pair of the checkpoint after `step`, from the `moment` after each step."""
    durations = [moment[one + 1] - moment[one] for one in range(step, step + steps)]
    around = (moment[step] - moment[step - steps], moment[step + 2 * steps] - moment[step + steps])
    busy = sum(moment[one] < moment[step] + waited + writing for one in range(step, step + steps))
    if busy == steps:
        sys.exit("a checkpoint was still being written when its window ended: give more --steps")
    lost = sum(durations[:busy]) - busy * statistics.median(durations[busy:])
    return Pair(statistics.mean(around), sum(durations), lost, waited, writing)


def to_text(pairs: list[Pair], steps: int, size: int) -> str:
    """Return the table for people, in Markdown."""
    columns = {
        "without, s": [f"{pair.without:.2f}" for pair in pairs],
        "with, s": [f"{pair.with_one:.2f}" for pair in pairs],
        "longer by": [f"{pair.slowdown:+.1%}" for pair in pairs],
        "lost while it was written, s": [f"{pair.lost:.2f}" for pair in pairs],
        "training waited, ms": [f"{1e3 * pair.waited:.0f}" for pair in pairs],
        "written in, s": [f"{pair.writing:.2f}" for pair in pairs],
    }
    step = statistics.median(pair.without for pair in pairs) / steps
    lost = statistics.median(pair.lost / pair.without for pair in pairs)
    return "\n".join(
        [
            f"a step takes {step:.2f} s, a checkpoint {size / 1e6:.0f} MB",
            f"| | {' | '.join(map(str, range(1, len(pairs) + 1)))} |",
            "|---" * (len(pairs) + 1) + "|",
            *(f"| {name} | {' | '.join(values)} |" for name, values in columns.items()),
            f"{steps} steps with a checkpoint take {median_slowdown(pairs):+.2%} (median of {len(pairs)} pairs); "
            f"{lost:+.2%} by what was lost while it was written",
        ]
    )


def median_slowdown(pairs: list[Pair]) -> float:
    """Return by what share of its time a window with a checkpoint is longer."""
    return statistics.median(pair.slowdown for pair in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs, size = measure(args.pairs, args.steps, args.image_size, args.batch, Path(folder))
    if args.json:
        versions, found = {"torch": torch.__version__}, [vars(pair) | {"slowdown": pair.slowdown} for pair in pairs]
        head = {"bench": "checkpoints", "device": "cpu", "precision": "fp32", "versions": versions, "bytes": size}
        print(json.dumps(head | {"slowdown": median_slowdown(pairs), "pairs": found}))
    else:
        print(to_text(pairs, args.steps, size))
    return 0 if median_slowdown(pairs) < MAX_SLOWDOWN and max(pair.waited for pair in pairs) < MAX_WAIT else 3


if __name__ == "__main__":
    sys.exit(main())
