"""The model of an all-reduce (docs/scaling.md) against gloo, on 2, 4 and 8 processes of this machine.

    python benchmarks/all_reduce.py --json FILE

Times all-reduces (the fastest of fifteen) of float32 tensors from 4 kB to 16 MB, fits latency and bandwidth to them,
and holds the model against the flat tensor of a ResNet-50 (102 MB), which is not part of the fit. All processes share
the cores and the memory of one machine, so a second fit gives all of them one link together: 2(n − 1)·bytes ÷ bandwidth
instead of 2(n − 1)/n·bytes ÷ bandwidth.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from scipy.optimize import nnls

from imagesprint.cli.output import table, to_json
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.files import write_text

RANKS = (2, 4, 8)
SIZES = tuple(4096 * 8**power for power in range(5))  # bytes: 4 kB to 16 MB
FULL = 4 * (25_557_032 + 2 * 26_560 + 4)  # gradients, batch-norm statistics and metrics of a ResNet-50: StepSums
REPEATS = 15
Sample = tuple[int, int, float]  # ranks, bytes, seconds


@dataclass(frozen=True)
class Link:
    """What one rank sends over: bytes a second in one direction, and seconds from a send to its arrival."""

    name: str
    bytes_per_second: float
    latency: float


# docs/scaling.md says where each figure is from.
NVLINK4: Final = Link("NVLink 4", 450e9, 3.4e-6)
NDR: Final = Link("InfiniBand NDR, one port a GPU", 50e9, 14e-6)
ETHERNET_100G: Final = Link("Ethernet 100 Gb/s for eight GPUs", 12.5e9 / 8, 30e-6)
NODE: Final = 8  # GPUs that NVLink connects


def ring_all_reduce(size: int, ranks: int, link: Link) -> float:
    """Return the seconds of a ring all-reduce of `size` bytes on `ranks` ranks, each with a `link` of its own."""
    return 2 * (ranks - 1) * (size / ranks / link.bytes_per_second + link.latency)


def all_reduce(size: int, ranks: int, inner: Link, outer: Link, node: int = NODE) -> float:
    """Return the seconds of an all-reduce of `size` bytes over nodes of `node` ranks.

    Within a node, over `inner`, each rank comes to hold the sum of its share; the n-th ranks of all nodes sum their
    shares in a ring over `outer`; then the shares are exchanged within the nodes.
    """
    if ranks <= node:
        return ring_all_reduce(size, ranks, inner)
    return ring_all_reduce(size, node, inner) + ring_all_reduce(size // node, ranks // node, outer)


def efficiency(compute: float, communication: float, hidden: float = 0.0) -> float:
    """Return what is left of linear scaling, 0..1: a step computes for `compute` seconds, and the all-reduce lasts for
    `communication`, of which the backward pass hides up to `hidden` seconds.
    """
    return compute / (compute + max(0.0, communication - hidden))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    args = parser.parse_args()
    samples = [(ranks, size, seconds) for ranks in RANKS for size, seconds in measure(ranks, (*SIZES, FULL))]
    fits = {name: judge(samples, shared) for name, shared in (("a link each", False), ("one link for all", True))}
    print(table(["ranks", "bytes", "ms"], [[ranks, size, round(1e3 * taken, 3)] for ranks, size, taken in samples]))
    for name, found in fits.items():
        print(f"\n{name}: {found['bytes_per_second'] / 1e9:.2f} GB/s, {1e6 * found['latency']:.0f} µs a send")
        rows = [[row["ranks"], *(round(1e3 * row[key], 1) for key in ("measured", "model")),
                 f"{row['error']:+.0%}"] for row in found["full"]]  # fmt: skip
        print(table(["ranks", "full tensor, ms", "model", "off by"], rows))
    if args.json is not None:
        done = {"device": processor(), "versions": versions("torch", "numpy"), "samples": samples, "fits": fits}
        write_text(args.json, to_json({"begun": time.strftime("%Y-%m-%d %H:%M:%S"), **done}) + "\n")
    return 0


def measure(ranks: int, sizes: Sequence[int]) -> list[tuple[int, float]]:
    """Return bytes and the fewest seconds of an all-reduce on `ranks` processes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=serve, args=(rank, ranks, folder, sizes)) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [(size, seconds) for size, seconds in json.loads((Path(folder) / "seconds.json").read_text())]


def serve(rank: int, ranks: int, folder: str, sizes: Sequence[int]) -> None:
    """Be one of the processes; rank 0 writes what it measured."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    taken = []
    for size in sizes:
        tensor = torch.zeros(size // 4)
        seconds = [once(tensor) for _ in range(1 + REPEATS)][1:]  # the first connects and touches the memory
        taken.append((size, min(seconds)))  # other programs only ever add to it
    if rank == 0:
        (Path(folder) / "seconds.json").write_text(json.dumps(taken))
    dist.barrier()
    dist.destroy_process_group()


def once(tensor: torch.Tensor) -> float:
    dist.barrier()
    start = time.perf_counter()
    dist.all_reduce(tensor)
    return time.perf_counter() - start


def judge(samples: Sequence[Sample], shared: bool) -> dict[str, Any]:
    """Fit latency and bandwidth to all but the full tensor, weighting relative errors; hold the full one against it."""
    link = fit([sample for sample in samples if sample[1] != FULL], shared)
    full = []
    for ranks, size, seconds in samples:
        if size == FULL:
            model = ring_all_reduce(size * (ranks if shared else 1), ranks, link)
            full.append({"ranks": ranks, "measured": seconds, "model": model, "error": model / seconds - 1})
    return {"bytes_per_second": link.bytes_per_second, "latency": link.latency, "full": full}


def fit(samples: Sequence[Sample], shared: bool) -> Link:
    """Return the link that explains the samples best; neither of its figures can be less than nothing."""
    sends = np.array([[2 * (n - 1), 2 * (n - 1) / (1 if shared else n) * size] for n, size, _ in samples])
    relative = sends / np.array([[seconds] for _, _, seconds in samples])
    (latency, per_byte), _ = nnls(relative, np.ones(len(samples)))
    return Link("gloo", 1 / max(per_byte, 1e-15), latency)


if __name__ == "__main__":
    sys.exit(main())
