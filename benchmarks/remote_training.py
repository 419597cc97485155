"""A whole training by URL against the same from the disk: are the losses and the final weights the same bits?

    python benchmarks/remote_training.py --data ROOT --output FOLDER [--recipe small] [--stop-after STEPS]
        [--runs disk,s3:empty,s3:small,s3:warm,hdfs:empty,hdfs:small,hdfs:warm] [--processes 1]

Puts ROOT into a SeaweedFS and, where `make .hadoop/whole` was run, into an HDFS of its own, and trains the recipe from
each of --runs in turn: `disk` first, then a store with an empty cache, one that was filled by a training before, or
one that holds a third of the bytes. Each run stays in FOLDER; one that is whole there is not made again. Prints a table
in Markdown: steps, seconds, images a second, and whether every logged loss and every tensor of the last checkpoint
equal those from the disk. Exits 3 where one does not.
"""

import argparse
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
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url
from s3_server import S3Server

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
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    print("| from | cache | steps | seconds | images/s | losses | weights |\n|---|---|---|---|---|---|---|", flush=True)
    is_equal = True
    with tempfile.TemporaryDirectory(prefix="by-url-") as scratch, servers(args, Path(scratch)) as places:
        for name in args.runs.split(","):
            seconds = train(args, name, places, Path(scratch))
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
def servers(args: argparse.Namespace, scratch: Path) -> Iterator[dict[str, tuple[str, dict[str, str]]]]:
    """Where ROOT lies, by kind, and the environment that it takes to get there."""
    places: dict[str, tuple[str, dict[str, str]]] = {"disk": (str(args.data), {})}
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


def train(args: argparse.Namespace, name: str, places: dict[str, tuple[str, dict[str, str]]], scratch: Path) -> float:
    """Train once; returns how long that took, in seconds: 0 where the run was there."""
    kind, _, cache = name.partition(":")
    place, environment = places[kind]
    run, kept = args.output / folder_of(name), scratch / f"cache-{kind}"
    words = ["train", args.recipe, "--data", place, "--output", str(run), "--processes", str(args.processes)]
    if args.stop_after:
        words += ["--stop-after", str(args.stop_after)]
    if kind != "disk":
        if cache != "warm":
            shutil.rmtree(kept, ignore_errors=True)
        words += ["--cache", str(kept)]
    if cache == "small":
        num_bytes = sum(file.stat().st_size for file in args.data.rglob("*") if file.is_file())
        words += ["--cache-limit", f"{num_bytes // SMALL}B"]
    began = time.monotonic()
    with (args.output / f"{folder_of(name)}.log").open("w") as log:
        command = [sys.executable, "-m", "imagesprint", *words]
        subprocess.run(command, env=os.environ | environment, check=True, stdout=log, stderr=log)
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
