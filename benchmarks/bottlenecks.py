"""Plants bottlenecks in real trainings, one or two at a time: does `imagesprint doctor RUN` name the narrowest first?

    python benchmarks/bottlenecks.py [--runs 10] [--plants decode,read+decode,…] [--json]

Each run is an `imagesprint train` of its own, a few seconds of steps on generated photos. What is planted is real but
for two things: the slow disk is a library that is preloaded and sleeps in each pread and long write (it needs cc), and
the slow copy, which a CPU does not have, is a thread at the place of the copy engine that sleeps (`--slow-copies`
below). Which of two is the narrower is not decided by the doctor but by trainings without the one and without the
other: the narrower is the one without which training is faster. Prints a table in Markdown. Exits 3 where a run was
named wrongly.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from photos import make_root

from imagesprint.cli.main import main as imagesprint_main
from imagesprint.diagnosis.doctor import diagnose_run
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.loading.batch import Batch
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.training import training
from imagesprint.training.prefetch import CopyTimes, DeviceBatches

SLOW_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
static long number(const char *variable) {
  const char *text = getenv(variable);
  return text ? atol(text) : 0;
}
static void wait_for(double seconds) {
  long whole = (long)seconds;
  nanosleep(&(struct timespec){whole, (long)((seconds - whole) * 1e9)}, NULL);
}
static ssize_t slow(const char *name, int fd, void *bytes, size_t count, off_t offset) {
  ssize_t (*real)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, name);
  wait_for(number("READ_MILLISECONDS") / 1e3);
  return real(fd, bytes, count, offset);
}
ssize_t pread(int fd, void *bytes, size_t count, off_t offset) { return slow("pread", fd, bytes, count, offset); }
ssize_t pread64(int fd, void *bytes, size_t count, off_t offset) { return slow("pread64", fd, bytes, count, offset); }
ssize_t write(int fd, const void *bytes, size_t count) {
  ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
  long speed = number("WRITE_MEGABYTES_PER_SECOND");
  if (speed && count >= 1 << 16) wait_for(count / (speed * 1e6));
  return real(fd, bytes, count);
}
"""
SMALL = 48  # pixels: the height of photos that are decoded in no time
LARGE = 1800
PERIOD = 0.1  # seconds, of which a straggler is stopped for a part


@dataclass(frozen=True)
class Conditions:
    """Of one training. As they stand here nothing is planted."""

    steps: int = 40
    model: str = "resnet20"
    image_size: int = 32
    height: int = SMALL
    read_milliseconds: int = 0
    write_megabytes_per_second: int = 0  # 0 for as fast as it goes
    copy_milliseconds: int = 0  # a batch
    processes: int = 1
    stopped: float = 0.0  # the share of the time for which rank 1 stands still
    checkpoint_every: int = 10**9


@dataclass(frozen=True)
class Plant:
    """One bottleneck or two, the narrower of them first: what it is, and how each changes the conditions `around`."""

    what: str
    changes: dict[str, dict[str, Any]]
    around: Conditions = Conditions()

    def conditions(self, without: str = "") -> Conditions:
        """Return the conditions of a training, all planted but `without`."""
        conditions = self.around
        for name, changes in self.changes.items():
            conditions = conditions if name == without else replace(conditions, **changes)
        return conditions


SLOW_WRITES = Conditions(model="resnet50", image_size=16, steps=6, write_megabytes_per_second=100)
PLANTS = (
    Plant(f"photos of {LARGE * 4 // 3} × {LARGE} px, one thread", {"decode": {"height": LARGE}}),
    Plant("each read takes 20 ms", {"read": {"read_milliseconds": 20}}),
    Plant("each batch takes 200 ms to copy", {"copy": {"copy_milliseconds": 200}}),
    Plant("resnet50 at 64 px", {"compute": {"model": "resnet50", "image_size": 64}}, Conditions(steps=30)),
    Plant(
        "of two ranks one stands still for 75% of the time", {"straggler": {"stopped": 0.75}}, Conditions(processes=2)
    ),
    Plant(
        "resnet50 at 16 px, a checkpoint after each step, on a disk that writes 100 MB/s",
        {"checkpoint": {"checkpoint_every": 1}},
        SLOW_WRITES,
    ),
    Plant(
        f"each read takes 60 ms, of photos of {LARGE * 4 // 3} × {LARGE} px",
        {"read": {"read_milliseconds": 60}, "decode": {"height": LARGE}},
    ),
    Plant(
        f"photos of {LARGE * 4 // 3} × {LARGE} px, resnet20 at 96 px",
        {"compute": {"image_size": 96}, "decode": {"height": LARGE}},
    ),
    Plant(
        "resnet50 at 16 px, a checkpoint after each step, on a disk that writes 100 MB/s, each read takes 80 ms",
        {"checkpoint": {"checkpoint_every": 1}, "read": {"read_milliseconds": 80}},
        SLOW_WRITES,
    ),
    Plant(
        "of two ranks one stands still for 75% of the time, each read takes 20 ms",
        {"straggler": {"stopped": 0.75}, "read": {"read_milliseconds": 20}},
        Conditions(processes=2),
    ),
)


@dataclass(frozen=True)
class Place:
    """Where all lies."""

    scratch: Path
    roots: dict[int, Path]  # by the photos' height
    slow_disk: Path


@dataclass(frozen=True)
class Outcome:
    """What the doctor said of one training: stages, the narrowest first, and images a second without the start."""

    stages: list[str]
    images_per_second: float


def recipe_of(conditions: Conditions) -> Recipe:
    """Return the recipe: steps of eight images, a micro-batch for each process, evaluated at the end alone."""
    size, micro_batch = conditions.image_size, 8 // conditions.processes
    return Recipe(
        name="planted",
        model=conditions.model,
        precision="fp32",
        zero_init=False,
        eval_every=0,
        eval_resize=size,
        eval_image_size=size,
        eval_batch_size=8,
        phases=(Phase(None, (1e-3, 1e-3), "constant", 8, micro_batch, size, steps=(0, conditions.steps)),),
    )


def train(place: Place, conditions: Conditions) -> Outcome:
    """Train, and ask the doctor; one decoding thread and one of the step's for each rank."""
    with tempfile.TemporaryDirectory(dir=place.scratch) as folder:
        recipe, run = Path(folder) / "planted.toml", Path(folder) / "run"
        recipe.write_text(to_toml(recipe_of(conditions)))
        words: list[object] = ["train", recipe, "--data", place.roots[conditions.height], "--output", run]
        words += ["--device", "cpu", "--processes", conditions.processes, "--keep", "last:1", "--quiet"]
        words += ["--checkpoint-every", conditions.checkpoint_every]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if conditions.read_milliseconds or conditions.write_megabytes_per_second:
            environment["LD_PRELOAD"] = str(place.slow_disk)
            environment["READ_MILLISECONDS"] = str(conditions.read_milliseconds)
            environment["WRITE_MEGABYTES_PER_SECOND"] = str(conditions.write_megabytes_per_second)
        program = [sys.executable, "-m", "imagesprint"]
        if conditions.copy_milliseconds:
            program = [sys.executable, __file__, "--slow-copies", str(conditions.copy_milliseconds)]
        launcher = subprocess.Popen([*program, *map(str, words)], env=environment, stdout=subprocess.DEVNULL)
        if conditions.stopped:
            hold_back(launcher, run, conditions.stopped)
        if launcher.wait() != 0:
            raise SystemExit(f"train ended with {launcher.returncode}: {words}")
        found = diagnose_run(run, None)
    (phase,) = found.phases
    return Outcome([limit.name for limit in phase.limits], phase.images_per_second)


def hold_back(launcher: subprocess.Popen[bytes], run: Path, share: float) -> None:
    """Stop rank 1 for a share of each PERIOD while the training of `launcher` goes on."""
    while not (run / "metrics.jsonl").exists() and launcher.poll() is None:
        time.sleep(0.05)
    ranks = psutil.Process(launcher.pid).children() if launcher.poll() is None else []
    victims = [rank for rank in ranks if rank.environ().get("RANK") == "1"]
    while victims and launcher.poll() is None:
        for stop, seconds in ((True, share * PERIOD), (False, (1 - share) * PERIOD)):
            with suppress(psutil.NoSuchProcess):
                victims[0].send_signal(signal.SIGSTOP if stop else signal.SIGCONT)
            time.sleep(seconds)


def with_slow_copies(milliseconds: int, words: list[str]) -> int:
    """Carry out `imagesprint WORDS` with a copy engine that takes so long for each batch, one ahead."""

    def copied(batches: Iterator[Batch], copies: CopyTimes) -> Iterator[Batch]:
        def copy(batch: Batch) -> Batch:
            begun = time.perf_counter()
            time.sleep(milliseconds / 1000)
            made = replace(batch, images=batch.images.clone(), labels=batch.labels.clone())
            copies.copying += time.perf_counter() - begun
            return made

        previous: Batch | None = None
        with ThreadPoolExecutor(1) as engine:
            for batch in batches:
                coming = engine.submit(copy, batch)
                if previous is not None:
                    yield previous
                begun = time.perf_counter()
                previous = coming.result()
                copies.waited += time.perf_counter() - begun
            if previous is not None:
                yield previous

    def on_device(batches: Iterator[Batch], _: torch.device) -> DeviceBatches:
        copies = CopyTimes()
        return DeviceBatches(copied(batches, copies), copies)

    training.on_device = on_device
    return imagesprint_main(words)


def make_place(scratch: Path) -> Place:
    """Prepare the photos and build the slow disk."""
    roots = {height: scratch / f"photos-{height}" for height in (SMALL, LARGE)}
    for height, root in roots.items():
        make_root(root, 32, height, ("full",))
    slow_disk = scratch / "slow-disk.so"
    build = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(slow_disk), "-ldl"]
    subprocess.run(build, input=SLOW_DISK, text=True, check=True)
    return Place(scratch, roots, slow_disk)


def judge(place: Place, plant: Plant, runs: int) -> dict[str, Any]:
    """Train with the plant so often, and once without each part of it."""
    planted = list(plant.changes)
    outcomes = [train(place, plant.conditions()) for _ in range(runs)]
    without = {name: train(place, plant.conditions(without=name)).images_per_second for name in planted}
    narrowest = max(planted, key=lambda name: without[name])
    named = Counter(" > ".join(outcome.stages[: len(planted)]) for outcome in outcomes)
    return {
        "planted": planted,
        "what": plant.what,
        "narrowest": narrowest,
        "runs": runs,
        "right": sum(outcome.stages[0] == narrowest for outcome in outcomes),
        "named": dict(named),
        "images_per_second": statistics.median(outcome.images_per_second for outcome in outcomes),
        "without": without,
    }


def row_of(found: dict[str, Any]) -> str:
    """Return a row of the table."""
    named = ", ".join(f"{stages} × {count}" for stages, count in found["named"].items())
    without = ", ".join(f"{speed:.1f} without {name}" for name, speed in found["without"].items())
    speeds = f"{found['images_per_second']:.1f}; {without}"
    return (
        f"| {' + '.join(found['planted'])} | {found['what']} | {speeds} | {found['narrowest']} | {named} | "
        f"{found['right']} of {found['runs']} |"
    )


def main() -> int:
    if sys.argv[1:2] == ["--slow-copies"]:
        return with_slow_copies(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of each plant")
    parser.add_argument("--plants", default="", help="such as decode,read+decode; default: all")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    wanted = args.plants.split(",") if args.plants else ["+".join(plant.changes) for plant in PLANTS]
    begun, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="bottlenecks-") as folder:
        place = make_place(Path(folder))
        for plant in PLANTS:
            if "+".join(plant.changes) in wanted:
                found.append(judge(place, plant, args.runs))
                print(row_of(found[-1]), file=sys.stderr, flush=True)
    if args.json:
        print(
            json.dumps({"bench": "bottlenecks", "device": processor(), "versions": versions("torch"), "plants": found})
        )
    else:
        print(f"{processor()}, {versions('torch')}, {time.monotonic() - begun:.0f} s\n")
        print("| planted | how | images/s | the narrowest | named, in order | right |\n|---|---|---|---|---|---|")
        print("\n".join(map(row_of, found)))
    return 0 if all(each["right"] == each["runs"] for each in found) else 3


if __name__ == "__main__":
    sys.exit(main())
