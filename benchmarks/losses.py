"""Do the losses of a fast training stay within the spread that slow ones have among themselves?

    python benchmarks/losses.py minutes104 --data ROOT --device cuda --steps 200 --json

Trains the first phase's shape of a recipe on images of ROOT, with a batch of at most four micro-batches: in eager fp32
(`reference`), the same with each step's micro-batches summed in the opposite order (`reordered`), the same from another
seed (`reseeded`), and in bf16, compiled on a GPU (`fast`). Losses are averaged over windows of twenty steps; two runs
are as far apart as their farthest windows. `fast` agrees if it is no farther from `reference` than `reordered` or
`reseeded` is. Exits 3 if it is.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from imagesprint.cli.output import to_json
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.training.compiled import wants_compiled
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

WINDOW = 20  # steps
MICRO_BATCHES = 4
LR = (0.01, 0.1)  # a warm-up that a batch of a few hundred images bears


@dataclass(frozen=True)
class Run:
    precision: str = "fp32"
    seed: int = 0
    reverse: bool = False
    compilation: str = "off"


RUNS = {
    "reference": Run(),
    "reordered": Run(reverse=True),
    "reseeded": Run(seed=1),
    "fast": Run(precision="bf16", compilation="auto"),
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
        losses = {name: train(recipe, run, root, ranks) for name, run in RUNS.items()}
    result = {"bench": "losses", "recipe": args.recipe, "steps": args.steps, **compare(losses), "losses": losses}
    text = "\n".join(f"{name} is {far:.4f} from reference" for name, far in result["distances"].items())
    print(to_json(result) if args.json else f"{text}\nagrees: {result['agrees']}")
    return 0 if result["agrees"] else 3


def shorten(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with `steps` steps of the first phase's image size and at most MICRO_BATCHES micro-batches."""
    first = recipe.phases[0]
    micro_batch = min(64, first.micro_batch)
    batch_size = min(first.batch_size, MICRO_BATCHES * micro_batch)
    phase = Phase(
        None, LR, "linear", batch_size, micro_batch, first.image_size, first.source, first.min_area, (0, steps)
    )
    return replace(recipe, phases=(phase,))


def train(recipe: Recipe, run: Run, root: Root, ranks: Ranks) -> list[float]:
    """Return the mean loss of each step."""
    recipe = replace(recipe, precision=run.precision, seed=run.seed)
    state = TrainingState(recipe, root.classes, ranks.device)
    step = TrainingStep(state, ranks, wants_compiled(run.compilation, ranks.device))
    losses = []
    with Loader(root, recipe, threads=ranks.threads) as loader:
        schedule: Schedule = loader.schedule
        batches = reverse_steps(loader, recipe.phases[0].micro_batches) if run.reverse else iter(loader)
        for number in range(schedule.total_steps):
            sums = step(batches, recipe.phases[0], schedule.lr(number))
            losses.append((sums[0] / sums[-1]).clone())
    values: list[float] = torch.stack(losses).tolist()
    return values


def reverse_steps(loader: Loader, micro_batches: int) -> Iterator[Batch]:
    """Yield each step's micro-batches from the last to the first."""
    held: list[Batch] = []
    for batch in loader:
        held.append(replace(batch, images=batch.images.clone(), labels=batch.labels.clone()))
        if len(held) == micro_batches:
            yield from reversed(held)
            held.clear()


def compare(losses: dict[str, list[float]]) -> dict[str, Any]:
    """Return how far each run's windows are from the reference's, and whether `fast` is within the others' spread."""
    windows = {name: smooth(values) for name, values in losses.items()}
    distances = {
        name: max(abs(a - b) for a, b in zip(values, windows["reference"], strict=True))
        for name, values in windows.items()
        if name != "reference"
    }
    spread = max(distances["reordered"], distances["reseeded"])
    return {"distances": distances, "spread": spread, "agrees": distances["fast"] <= spread, "windows": windows}


def smooth(values: list[float]) -> list[float]:
    """Return the means of whole windows of WINDOW steps, or of all where there are fewer."""
    width = min(WINDOW, len(values))
    return [sum(values[i : i + width]) / width for i in range(0, len(values) - width + 1, width)]


if __name__ == "__main__":
    sys.exit(main())
