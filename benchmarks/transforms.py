"""What batch transforms cost: the time of a step with them over that of the same step without, taken in turns.

    python benchmarks/transforms.py "jitter 0.3,cutmix 0.5"
    python benchmarks/transforms.py --size 96 trivial "trivial,cutmix 1,erasing 0.25"

It trains the recipe on noise, one thread, in whole steps of its first phase. Each round takes one step of every row;
printed is the median over the rounds of the ratio within a round, with the quartiles, and what the transforms take by
themselves, as a share of the step without them. Times are those of the processor, so that other work on the machine
counts less.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.images.draws import sample_floats
from imagesprint.loading.batch import Batch
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import TRANSFORM_DRAWS, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.optimizer import best_precision
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep
from imagesprint.training.transforms import transforms_of

NUMBERS = {"mixup": "0.2", "cutmix": "1", "erasing": "0.25", "jitter": "0.4", "grey": "0.2", "pad": "4"}
ALL = tuple(f"{name} {NUMBERS.get(name, '')}".strip() for name in TRANSFORM_DRAWS)
CLASSES = tuple(map(str, range(100)))
WARM_UP = 2  # rounds
ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))


def batches(recipe: Recipe) -> Iterator[Batch]:
    """The same micro-batch of noise again and again."""
    phase, generator = recipe.phases[0], np.random.default_rng(0)
    shape = (phase.micro_batch, phase.image_size, phase.image_size, 3)
    ids = np.arange(phase.micro_batch)
    batch = Batch(
        images=torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8)),
        labels=torch.from_numpy(generator.integers(0, 100, phase.micro_batch)),
        sample_ids=torch.from_numpy(ids),
        mask=torch.ones(phase.micro_batch, dtype=torch.bool),
        step=0,
        draws=torch.from_numpy(sample_floats(0, 0, ids, recipe.draws)),
    )
    while True:
        yield batch


def measure(recipe: Recipe, rows: list[tuple[str, ...]], rounds: int) -> NDArray[np.float64]:
    """Seconds of each row's step and of its transforms alone, in each round: float64 [2, rounds, rows]."""
    (phase,), runs = recipe.phases, []
    for augment in rows:
        each = replace(recipe, augment=augment)
        step = TrainingStep(TrainingState(each, CLASSES, ALONE.device), ALONE)
        runs.append((step, transforms_of(each, len(CLASSES), ALONE.device), batches(each)))
    seconds = np.zeros((2, rounds + WARM_UP, len(rows)))
    for number in range(rounds + WARM_UP):
        for row, (step, transform, feed) in enumerate(runs):
            start = time.process_time()
            step(feed, phase, 0.01)
            middle = time.process_time()
            batch = next(feed)
            transform(batch.images, batch.labels, batch.draws)
            own = (time.process_time() - middle) * (phase.batch_size // phase.micro_batch)
            seconds[:, number, row] = middle - start, own
    return seconds[:, WARM_UP:]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("augment", nargs="*", help="transforms with commas between; default: each alone, then all")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--size", type=int, help="pixels; default: those of the first phase")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[str, ...]] = [()]
    rows += [tuple(row.split(",")) for row in args.augment] if args.augment else [*((one,) for one in ALL), ALL]
    recipe = load_recipe(args.recipe)
    phase = replace(recipe.phases[0], image_size=args.size or recipe.phases[0].image_size)
    recipe = replace(recipe, phases=(phase,), precision=best_precision(ALONE.device))
    steps, alone = measure(recipe, rows, args.rounds)
    plain = float(np.median(steps[:, 0]))
    images = f"{phase.batch_size} images of {phase.image_size} px in micro-batches of {phase.micro_batch}"
    what = f"{recipe.model}, {images}, {recipe.precision}"
    print(f"{what}: {1000 * plain:.1f} ms a step without transforms")
    print("with, to without    by themselves")
    for row, augment in enumerate(rows[1:], 1):
        low, middle, high = np.quantile(steps[:, row] / steps[:, 0], (0.25, 0.5, 0.75))
        own = np.median(alone[:, row] / steps[:, 0])
        print(f"{middle:.3f} ({low:.3f}–{high:.3f}) {own:7.3f}   {', '.join(augment)}")


if __name__ == "__main__":
    main()
