"""Do the losses of a fast training stay within the spread that slow ones have among themselves?

    python benchmarks/losses.py minutes104 --data ROOT --device cuda --steps 200 --json

Trains the first phase's shape of a recipe on images of ROOT, with a batch of at most two micro-batches of 128: in eager
fp32 from three seeds (`reference`, `seed 1`, `seed 2`), and from the reference's seed in bf16, compiled on a GPU
(`fast`). With --json a line is printed after each run, with all that is known by then; the last is the result.

The rule: losses are averaged over windows of twenty steps, and two runs are as far apart as the root of the mean square
of their windows' differences. The spread is the smallest distance between two of the slow runs. `fast` agrees if it is
no farther from `reference` than that. It sees the reference's images in the reference's order, so that the luck of
other images is in the spread alone; and one window that is far off, or a small bias in all of them, both count. Exits 3
where it does not agree.
"""

import argparse
import itertools
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from imagesprint.cli.output import to_json
from imagesprint.loading.loader import Loader
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep, wants_compiled

WINDOW = 20  # steps
MICRO_BATCHES, IMAGES = 2, 128  # at most, of a batch and of a micro-batch
LR = (0.01, 0.1)  # a warm-up that a batch of a few hundred images bears


@dataclass(frozen=True)
class Run:
    precision: str = "fp32"
    seed: int = 0
    compilation: str = "off"


RUNS = {  # the first two tell the most, should there be no time for more
    "reference": Run(),
    "fast": Run(precision="bf16", compilation="auto"),
    "seed 1": Run(seed=1),
    "seed 2": Run(seed=2),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with open_ranks(args.device) as ranks:
        recipe, root = shorten(load_recipe(args.recipe), args.steps), open_root(args.data)
        losses: dict[str, list[float]] = {}
        for name, run in RUNS.items():
            losses[name] = train(recipe, run, root, ranks)
            found = compare(losses)
            if args.json:
                about = {"bench": "losses", "recipe": args.recipe, "steps": args.steps}
                print(to_json({**about, **found, "losses": losses}), flush=True)
            else:
                print(f"{name} is {found['distances'][name]:.4f} from reference", flush=True)
    if not args.json:
        print(f"agrees: {found['agrees']}")
    return 0 if found["agrees"] else 3


def shorten(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with `steps` steps of the first phase's image size and at most MICRO_BATCHES micro-batches."""
    first = recipe.phases[0]
    micro_batch = min(IMAGES, first.micro_batch)
    batch_size = min(first.batch_size, MICRO_BATCHES * micro_batch)
    phase = Phase(
        None, LR, "linear", batch_size, micro_batch, first.image_size, first.source, first.min_area, (0, steps)
    )
    return replace(recipe, phases=(phase,))


def train(recipe: Recipe, run: Run, root: Root, ranks: Ranks) -> list[float]:
    """Return the mean loss of each step."""
    recipe = replace(recipe, precision=run.precision, seed=run.seed)
    dataset = root.dataset(root.nearest(recipe.phases[0].source), "train")
    state = TrainingState(recipe, root.classes, ranks.device, class_counts=torch.from_numpy(dataset.class_counts))
    step = TrainingStep(state, ranks, wants_compiled(run.compilation, ranks.device))
    losses = []
    with Loader(root, recipe, threads=ranks.threads) as loader:
        schedule = Schedule(recipe, len(dataset))
        batches = iter(loader)
        for number in range(schedule.total_steps):
            sums = step(batches, recipe.phases[0], schedule.lr(number))
            losses.append((sums[0] / sums[-1]).clone())
    values: list[float] = torch.stack(losses).tolist()
    return values


def compare(losses: dict[str, list[float]]) -> dict[str, Any]:
    """Return how far each run is from the reference, and, if all are there, the spread of the slow ones and whether
    `fast` is within it.
    """
    windows = {name: smooth(values) for name, values in losses.items()}
    found: dict[str, Any] = {"windows": windows}
    found["distances"] = {name: distance(values, windows["reference"]) for name, values in windows.items()}
    if losses.keys() == RUNS.keys():
        slow = [values for name, values in windows.items() if name != "fast"]
        found["spread"] = min(distance(first, second) for first, second in itertools.combinations(slow, 2))
        found["agrees"] = found["distances"]["fast"] <= found["spread"]
    return found


def distance(first: list[float], second: list[float]) -> float:
    """Return the root of the mean square of the differences."""
    return math.dist(first, second) / math.sqrt(len(first))


def smooth(values: list[float]) -> list[float]:
    """Return the means of whole windows of WINDOW steps, or of all where there are fewer."""
    width = min(WINDOW, len(values))
    return [sum(values[i : i + width]) / width for i in range(0, len(values) - width + 1, width)]


if __name__ == "__main__":
    sys.exit(main())
