"""A whole training by URL against the same from the disk: are the losses and the final weights the same bits?

    python benchmarks/remote_training.py --data ROOT --output FOLDER [--recipe small] [--stop-after STEPS]
        [--runs disk,s3:empty,s3:small,s3:warm,hdfs:empty,hdfs:small,hdfs:warm] [--processes 1] [--streams 1,2,4]

Puts ROOT into a SeaweedFS and, where `make .hadoop/whole` was run, into an HDFS of its own, and trains the recipe from
each of --runs in turn: `disk` first, then a store with an empty cache, one that was filled by a training before, or
one that holds a third of the bytes. Each run stays in FOLDER; one that is whole there is not made again. Prints a table
in Markdown: steps, seconds, images a second, and whether every logged loss and every tensor of the last checkpoint
equal those from the disk. Exits 3 where one does not.

With --streams it trains nothing, but hashes every micro-batch of the whole recipe (pixels, labels, sample ids, mask),
of the ranks of each of these world sizes by turns.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).with_name("servers")))

from hdfs_server import HdfsServer
from imagesprint.checkpoints.naming import list_checkpoints
from imagesprint.loading.loader import Loader
from imagesprint.recipes.library import load_recipe
from imagesprint.records.dataset import open_root
from imagesprint.storage.cache import FOLDER_VARIABLE, LIMIT_VARIABLE
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url, parse_place
from s3_server import S3Server

Places = dict[str, tuple[str, dict[str, str]]]  # where ROOT lies, by kind of store, and the environment that it takes
RUNS = "disk,s3:empty,s3:small,s3:warm,hdfs:empty,hdfs:small,hdfs:warm"
SMALL = 3  # the part of the bytes that a cache which is too small has room for: one in so many


def main() -> int:
    """Train and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--runs", default=RUNS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--streams", help="world sizes, as 1,2,4")
    parser.add_argument("--hash", nargs=2, help=argparse.SUPPRESS)  # what this process, started by another, hashes
    args = parser.parse_args()
    if args.hash:
        print(stream(args.recipe, args.hash[0], int(args.hash[1])))
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="by-url-") as scratch, servers(args, Path(scratch)) as places:
        return (compare_streams if args.streams else compare_runs)(args, places, Path(scratch))


def compare_streams(args: argparse.Namespace, places: Places, scratch: Path) -> int:
    """Hash the stream of each run and world size; 3 where one differs from the disk's."""
    print("| from | cache | ranks | seconds | stream |\n|---|---|---|---|---|", flush=True)
    expected: dict[str, str] = {}
    is_equal = True
    for name in args.runs.split(","):
        kind, _, cache = name.partition(":")
        for size in args.streams.split(","):
            place, environment = prepared(args, name, places, scratch)
            began = time.monotonic()
            command = [sys.executable, __file__, "--data", ".", "--output", ".", "--recipe", args.recipe]
            done = subprocess.run(
                [*command, "--hash", place, size], env=environment, check=True, capture_output=True, text=True
            )
            found = done.stdout.strip()
            same = found == expected.setdefault(size, found)
            is_equal &= same
            took = f"{time.monotonic() - began:.0f}"
            print(f"| {kind} | {cache or '–'} | {size} | {took} | {found[:16] if same else 'DIFFERS'} |", flush=True)
    return 0 if is_equal else 3


def stream(recipe: str, place: str, world_size: int) -> str:
    """A hash of all micro-batches, of the ranks by turns."""
    hashed = hashlib.sha256()
    root, table = open_root(parse_place(place)), load_recipe(recipe)
    loaders = [Loader(root, table, rank, world_size, threads=1) for rank in range(world_size)]
    for batches in zip(*loaders, strict=True):
        for batch in batches:
            for tensor in (batch.images, batch.labels, batch.sample_ids, batch.mask):
                hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()


def compare_runs(args: argparse.Namespace, places: Places, scratch: Path) -> int:
    """Train each run; 3 where one differs from the disk's."""
    print("| from | cache | steps | seconds | images/s | losses | weights |\n|---|---|---|---|---|---|---|", flush=True)
    is_equal = True
    for name in args.runs.split(","):
        seconds = train(args, name, places, scratch)
        figures, same = compared(args.output / folder_of(name), args.output / "disk")
        is_equal &= all(same)
        kind, _, cache = name.partition(":")
        words = [kind, cache or "–", *figures[:1], f"{seconds:.0f}", *figures[1:]]
        print(f"| {' | '.join(words + ['equal' if one else 'DIFFER' for one in same])} |", flush=True)
    return 0 if is_equal else 3


def folder_of(name: str) -> str:
    """The name of a run's folder."""
    return name.replace(":", "-")


@contextmanager
def servers(args: argparse.Namespace, scratch: Path) -> Iterator[Places]:
    """Where ROOT lies, by kind, and the environment that it takes to get there."""
    places: Places = {"disk": (str(args.data), {})}
    started: list[S3Server | HdfsServer] = []
    try:
        for kind in sorted({name.partition(":")[0] for name in args.runs.split(",")} - {"disk"}):
            (scratch / kind).mkdir()
            server = S3Server(scratch / kind) if kind == "s3" else HdfsServer(scratch / kind)
            started.append(server)
            place = f"s3://{server.make_bucket('data')}/root" if isinstance(server, S3Server) else f"{server.url}/root"
            places[kind] = place, server.environment
            os.environ |= server.environment
            store = open_store(Url(place))
            for file in args.data.rglob("*"):
                if file.is_file():
                    store.upload(file, str(file.relative_to(args.data)))
        yield places
    finally:
        for server in started:
            server.kill()


def prepared(args: argparse.Namespace, name: str, places: Places, scratch: Path) -> tuple[str, dict[str, str]]:
    """Where a run's data lie, and the environment it takes to get there, with the cache as it is to be."""
    kind, _, cache = name.partition(":")
    place, environment = places[kind]
    if kind == "disk":
        return place, dict(os.environ)
    kept = scratch / f"cache-{kind}"
    if cache != "warm":
        shutil.rmtree(kept, ignore_errors=True)
    settings = environment | {FOLDER_VARIABLE: str(kept)}
    if cache == "small":
        num_bytes = sum(file.stat().st_size for file in args.data.rglob("*") if file.is_file())
        settings[LIMIT_VARIABLE] = f"{num_bytes // SMALL}B"
    return place, os.environ | settings


def train(args: argparse.Namespace, name: str, places: Places, scratch: Path) -> float:
    """Train once; returns how long that took, in seconds."""
    place, environment = prepared(args, name, places, scratch)
    run = args.output / folder_of(name)
    words = ["train", args.recipe, "--data", place, "--output", str(run), "--processes", str(args.processes)]
    if args.stop_after:
        words += ["--stop-after", str(args.stop_after)]
    began = time.monotonic()
    with (args.output / f"{folder_of(name)}.log").open("w") as log:
        command = [sys.executable, "-m", "imagesprint", *words]
        subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
    return time.monotonic() - began


def compared(run: Path, disk: Path) -> tuple[list[str], tuple[bool, bool]]:
    """Steps and images a second of a run; whether its losses, and its weights, are those from the disk."""
    ours, theirs = (
        [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (run, disk)
    )
    losses, expected = ([(row["step"], row["loss"]) for row in rows] for rows in (ours, theirs))
    mine, reference = (
        torch.load(list_checkpoints(each)[-1], weights_only=True, map_location="cpu")["model"] for each in (run, disk)
    )
    is_same = mine.keys() == reference.keys() and all(torch.equal(mine[key], reference[key]) for key in mine)
    speeds = sorted(row["images_per_second"] for row in ours)
    return [str(ours[-1]["step"]), f"{speeds[len(speeds) // 2]:.0f}"], (losses == expected, is_same)


if __name__ == "__main__":
    sys.exit(main())
