"""What `imagesprint plan` says beside what comes: the time of whole trainings, and the speed of loading by threads.

    python benchmarks/plan.py demo --data demo-run/data --pairs 5 --json FILE
    python benchmarks/plan.py small --data ROOT --pairs 5 --set 'phases.0.epochs=[0,1]' …

Each pair is a calibration from nothing and the `train` that follows, two commands, whose wall time counts. The loading
estimate is held against the loader with 1, 2, … threads, in rounds of turns.
Exits 3 where the median pair is off by more than 15%, or the median round of any number of threads by more than 10%.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from imagesprint.cli.output import table, to_json
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.diagnosis.stage_costs import LoadingCost, measure_loading
from imagesprint.files import write_text
from imagesprint.loading.loader import Loader
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.records.dataset import open_root

MAX_TOTAL = 0.15
MAX_LOADING = 0.10
ROUNDS = 15
PASS_SECONDS = 0.5


def pair(recipe: str, data: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Return what was planned and what the training took, wall time of the whole command, and the parts."""
    words = [recipe, "--data", str(data), *(word for override in overrides for word in ("--set", override)), "--json"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    plan, calibrating = _run(["plan", *words], environment)
    result, took = _run(["train", *words, "--output", str(folder / "run")], environment)
    planned = plan["total_seconds"]
    return {
        "planned": planned,
        "took": took,
        "off_by": planned / took - 1,
        "calibrating": calibrating,
        "parts": result["plan"]["parts"],
        "top1": result["top1"],
        "limited_by": [phase["limited_by"] for phase in plan["phases"]],
    }


def _run(words: list[str], environment: dict[str, str]) -> tuple[Any, float]:
    """The JSON value that a command prints, and its seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "imagesprint", *words, "--quiet"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout), time.monotonic() - began


def loading(recipe: Recipe, data: Path, threads: int) -> list[dict[str, Any]]:
    """Return for each kind of batches and number of threads the images a second, estimated and measured."""
    rows = []
    kinds = {(phase.image_size, phase.micro_batch, phase.source): phase for phase in recipe.phases}
    for phase in kinds.values():
        rounds = [_loading_round(recipe, phase, data, threads) for _ in range(ROUNDS)]
        for index, count in enumerate(range(1, threads + 1)):
            estimated, measured = zip(*(each[index] for each in rounds), strict=True)
            off_by = statistics.median(one / other - 1 for one, other in zip(estimated, measured, strict=True))
            rows.append(
                {
                    "image_size": phase.image_size,
                    "source": phase.source,
                    "threads": count,
                    "estimated": statistics.median(estimated),
                    "measured": statistics.median(measured),
                    "off_by": off_by,
                }
            )
    return rows


def _loading_round(recipe: Recipe, phase: Phase, data: Path, threads: int) -> list[tuple[float, float]]:
    cost = LoadingCost.fitted(measure_loading(partial(_loader, recipe, phase, data), (1, max(2, threads))))
    found = []
    for count in range(1, threads + 1):
        with _loader(recipe, phase, data, count) as loader:
            found.append((cost.images_per_second(count), _speed(loader)))
    return found


def _loader(recipe: Recipe, phase: Phase, data: Path, threads: int) -> Loader:
    endless = replace(recipe, phases=(replace(phase, epochs=None, steps=(0, 1_000_000)),))
    return Loader(open_root(data), endless, threads=threads)


def _speed(loader: Loader) -> float:
    """Images a second of the loader, after the batches that it had ready."""
    images, began = 0, 0.0
    for number, batch in enumerate(loader):
        if number == 4:
            began = time.monotonic()
        elif number > 4:
            images += len(batch.labels)
            if time.monotonic() - began > PASS_SECONDS:
                break
    return images / (time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = apply_overrides(load_recipe(args.recipe), args.set)
    by_threads = loading(recipe, args.data, len(os.sched_getaffinity(0)))
    print(_loading_text(by_threads), flush=True)
    pairs = []
    for _ in range(args.pairs):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append(pair(args.recipe, args.data, args.set, Path(folder)))
        print(f"planned {pairs[-1]['planned']:.1f} s, took {pairs[-1]['took']:.1f} s", flush=True)
    off_by = statistics.median(each["off_by"] for each in pairs) if pairs else 0.0
    print(f"the median pair is off by {off_by:+.1%}")
    if args.json is not None:
        machine = {"device": processor(), "versions": versions("torch", "numpy")}
        asked = {"recipe": args.recipe, "set": args.set, "data": str(args.data)}
        content = {"bench": "plan", **machine, **asked, "off_by": off_by, "pairs": pairs, "loading": by_threads}
        write_text(args.json, to_json(content) + "\n")
    worst = max(abs(row["off_by"]) for row in by_threads)
    return 0 if abs(off_by) <= MAX_TOTAL and worst <= MAX_LOADING else 3


def _loading_text(rows: list[dict[str, Any]]) -> str:
    cells: list[list[object]] = []
    for row in rows:
        speeds = [round(row[key]) for key in ("estimated", "measured")]
        cells.append([row["image_size"], row["source"], row["threads"], *speeds, f"{row['off_by']:+.1%}"])
    return table(["px", "source", "threads", "estimated images/s", "measured", "off by"], cells)


if __name__ == "__main__":
    sys.exit(main())
