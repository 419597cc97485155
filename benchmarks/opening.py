"""What it takes to open ImageNet's index and to draw one epoch's order, each time in a fresh process.

    python benchmarks/opening.py [--repeats 5] [--json]

The index has 1,281,167 records in 1,024 shards, 42 % of them with one or two boxes, and 50,000 of validation; the
shards are sparse files of the right size. Exits 3 if a median misses its target.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from imagesprint.records.index import Index
from imagesprint.records.manifest import INDEXED, ClassInfo, Manifest, ShardInfo, write_split
from imagesprint.records.tfrecord import FRAME_BYTES

SPLITS = {"train": (1_281_167, 1024), "validation": (50_000, 128)}  # records, shards
WITH_BOXES = 0.42
MEAN_BYTES = 115_000  # of a record
TARGETS = {"open_seconds": 1.0, "open_bytes": 150e6, "permutation_seconds": 0.2}

MEASURE = """
import json, re, sys, time
from imagesprint.images.draws import permutation
from imagesprint.records.dataset import open_dataset

def memory(key):  # in bytes
    with open("/proc/self/status") as file:
        return int(re.search(key + r":\\s+(\\d+) kB", file.read())[1]) * 1024

before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
start = time.perf_counter()
dataset = open_dataset(sys.argv[1], "full", "train")
dataset.sizes
opened = time.perf_counter() - start
peak = memory("VmHWM") - before
start = time.perf_counter()
permutation(len(dataset), 0, 1)
drawn = time.perf_counter() - start
print(json.dumps({"open_seconds": opened, "open_bytes": peak, "permutation_seconds": drawn}))
"""


def write_root(root: Path) -> None:
    """Write a ROOT with the variant full; the same bytes every time."""
    folder = root / "full"
    folder.mkdir()
    rng = np.random.default_rng(0)
    splits = {}
    for split, (num_records, num_shards) in SPLITS.items():
        shards, parts = [], []
        bounds = [i * num_records // num_shards for i in range(num_shards + 1)]
        for number in range(num_shards):
            rows, boxes = draw_rows(rng, bounds[number + 1] - bounds[number])
            name, size = f"{split}-{number:05d}-of-{num_shards:05d}", rows[-1][0] + rows[-1][1] + FRAME_BYTES
            (folder / name).touch()
            os.truncate(folder / name, size)
            shards.append(ShardInfo(name, size, len(rows), 0))
            parts.append(Index.of_shard(name, size, rows, boxes))
        splits[split] = write_split(folder, split, Index.concatenate(parts), tuple(shards))
    classes = tuple(ClassInfo(f"n{i:08d}", f"n{i:08d}", f"class {i}") for i in range(1000))
    Manifest("full", "jpeg", 1, classes, splits, INDEXED).write(folder)


def draw_rows(rng: np.random.Generator, count: int) -> tuple[list[tuple[int, ...]], list[np.ndarray]]:
    lengths = rng.integers(MEAN_BYTES // 2, MEAN_BYTES * 3 // 2, count)
    offsets = np.concatenate([[0], np.cumsum(lengths + FRAME_BYTES)[:-1]])
    columns = [offsets, lengths, np.full(count, 300), lengths - 300, rng.integers(0, 1000, count)]
    columns += [rng.integers(200, 600, count), rng.integers(200, 600, count)]
    numbers = np.where(rng.random(count) < WITH_BOXES, rng.integers(1, 3, count), 0)
    boxes = [np.sort(rng.random((n, 2, 2)), 1).reshape(-1, 4).astype(np.float32) for n in numbers.tolist()]
    return list(zip(*(column.tolist() for column in columns), strict=True)), boxes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_root(Path(folder))
        runs = [measure(folder) for _ in range(args.repeats)]
    medians = {key: statistics.median(run[key] for run in runs) for key in TARGETS}
    result = {
        "bench": "opening",
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("imagesprint", "numpy")},
        "records": SPLITS["train"][0],
        **medians,
        "runs": runs,
        "targets": TARGETS,
        "ok": all(medians[key] < target for key, target in TARGETS.items()),
    }
    if args.json:
        print(json.dumps(result))
    else:
        for key, target in TARGETS.items():
            values = ", ".join(f"{run[key]:.4g}" for run in runs)
            print(f"{key}: median {medians[key]:.4g} (target below {target:.4g}; {values})")
    return 0 if result["ok"] else 3


def measure(root: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", MEASURE, root], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
