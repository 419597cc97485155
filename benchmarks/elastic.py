"""A training on nodes that are lost and come back, beside one in a single process that nothing happens to.

    python benchmarks/elastic.py [--nodes 4,3,2,1,4] [--steps 160] [--json]

Each node is a torchrun agent of its own on this machine, with one rank. The run goes on for some checkpoints on each
number of nodes in turn. Nodes are lost by kill -9 of agent and rank, and by SIGTERM to the agent, in turns; the one
that keeps the rendezvous stays. A step has four micro-batches: three ranks cannot share them, so one of them stands by.

Trains a ResNet-20 in float64 on 240 of scikit-learn's digits. Prints what came to pass, in Markdown, and whether every
micro-batch (also of steps that were computed twice) had the samples and pixels of the undisturbed run, each step is
logged once, and the loss curve is the same within 1e-5. Exits 3 where that does not hold; all is kept then.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from chaos_invariants import last_checkpoint, rows, unsound_logs
from digits import prepare_digits

from imagesprint.files import read_rows

RANK = Path(__file__).with_name("elastic_rank.py")
CHECKPOINT_EVERY = 2  # steps
IMAGES = 300
STAY = 4  # steps on each number of nodes, at least
PATIENCE = 150  # seconds for a change to take effect
TOLERANCE = 1e-5  # of the loss, relative
RENDEZVOUS = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=5"
MICRO_BATCHES = 4

RECIPE = """\
name = "elastic"
model = "resnet20"
momentum = 0.9
nesterov = true
precision = "fp64"
aspect = [0.9, 1.1]
flip = false
eval_source = "full"
eval_resize = 24
eval_image_size = 24
eval_every = 20

[[phases]]
steps = [0, {steps}]
lr = [0.02, 0.0]
method = "cosine"
batch_size = 64
micro_batch = 16
image_size = 16
source = "16"
min_area = 0.6
"""


@dataclass(frozen=True)
class Place:
    """Where all lies, and where the nodes meet."""

    scratch: Path
    data: Path
    recipe: Path
    port: int

    def environment(self, name: str) -> dict[str, str]:
        notes = self.scratch / f"{name}-notes"
        notes.mkdir(exist_ok=True)
        own = {"ELASTIC_NOTES": str(notes), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        return os.environ | own | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def words(self, name: str) -> list[str]:
        train = ["train", self.recipe, "--data", self.data, "--output", self.scratch / name, "--device", "cpu"]
        return [str(RANK), *map(str, train), "--checkpoint-every", str(CHECKPOINT_EVERY), "--quiet"]


class Node:
    """One torchrun agent and its rank."""

    def __init__(self, place: Place, most: int) -> None:
        words = [
            *(f"--nnodes=1:{most}", "--nproc-per-node=1", "--max-restarts=50", "--local-addr=127.0.0.1"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{place.port}", f"--rdzv-conf={RENDEZVOUS}"),
        ]
        with (place.scratch / "stderr").open("a") as stderr:
            self.agent = psutil.Popen(
                [sys.executable, "-m", "torch.distributed.run", *words, *place.words("run")],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=place.environment("run"),
            )

    def number(self) -> int:
        """Return the rank of its process, -1 where there is none."""
        for process in self.agent.children():
            try:
                if "RANK" in process.environ():
                    return int(process.environ()["RANK"])
            except psutil.Error:
                continue
        return -1

    def lose(self, number: int) -> None:
        """End it by signal `number`."""
        family = [self.agent, *self.agent.children(recursive=True)]
        for process in family if number == signal.SIGKILL else family[:1]:
            process.send_signal(number)
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, alive


@dataclass
class Stage:
    """What came to pass after the number of nodes was changed, by `change`."""

    nodes: int
    change: str
    ranks: int
    from_step: int
    seconds: float  # until the first checkpoint thereafter
    starts: int


def newest(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 where there is none."""
    return max((int(file.stem[5:]) for file in (run / "checkpoints").glob("step-*.pt")), default=0)


def begun(run: Path) -> list[dict[str, Any]]:
    """Return a row for each command that began so far."""
    return [row for row in read_rows(run / "commands.jsonl") if "began" in row]


def most_ranks(nodes: int) -> int:
    """Return how many of so many ranks can share the micro-batches."""
    return max(size for size in range(1, nodes + 1) if MICRO_BATCHES % size == 0)


def await_stage(run: Path, nodes: list[Node], before: int, change: str) -> Stage:
    """Wait until the run goes on on `nodes`: `before` commands had begun when they were changed."""
    changed, first = time.monotonic(), 0.0
    while time.monotonic() - changed < PATIENCE:
        commands = begun(run)
        if len(commands) > before and commands[-1]["ranks"] == most_ranks(len(nodes)):
            ranks, step = commands[-1]["ranks"], commands[-1]["step"]
            done = newest(run) - step
            first = first or (time.monotonic() - changed if done > 0 else 0.0)
            if done >= STAY:
                return Stage(len(nodes), change, ranks, step, first, len(commands) - before)
        time.sleep(0.05)
    raise TimeoutError(f"{len(nodes)} nodes did not go on within {PATIENCE} s")


def lose_nodes(nodes: list[Node], count: int, number: int) -> None:
    """Lose the last of those nodes that train, but for the first, which keeps the rendezvous."""
    most = most_ranks(len(nodes))
    ranks = {node.number(): node for node in nodes[1:]}
    for rank in sorted(ranks, key=lambda rank: (rank < most, rank))[-count:]:
        ranks[rank].lose(number)
        nodes.remove(ranks[rank])


def run_elastic(place: Place, sizes: list[int], nodes: list[Node]) -> list[Stage]:
    """Train on each of `sizes` nodes in turn; `nodes` holds those that are there. Returns what came to pass."""
    run, stages, most = place.scratch / "run", list[Stage](), max(sizes)
    slowly = Path(place.environment("run")["ELASTIC_NOTES"]) / "slowly"
    slowly.touch()
    signals = [signal.SIGKILL, signal.SIGTERM]
    for size in sizes:
        before = len(begun(run))
        change = "started" if not nodes else f"{size - len(nodes)} came" if size > len(nodes) else ""
        if size < len(nodes):
            change = f"{len(nodes) - size} lost by {signals[0].name}"
            lose_nodes(nodes, len(nodes) - size, signals[0])
            signals.reverse()
        while len(nodes) < size:
            nodes.append(Node(place, most))
            while len(nodes) == 1 and not listening(place.port):
                time.sleep(0.05)  # the first one is to keep the rendezvous
        stages.append(await_stage(run, nodes, before, change))
        print(stages[-1], file=sys.stderr, flush=True)
    slowly.unlink()
    for node in nodes:
        assert node.agent.wait(PATIENCE) == 0, f"a node ended with exit code {node.agent.returncode}"
    return stages


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def micro_batches(place: Place, name: str) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Return by step and index what was trained on: hashes of samples and pixels, each time that it was."""
    found: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for file in Path(place.environment(name)["ELASTIC_NOTES"]).glob("*.jsonl"):
        for step, index, samples, pixels in rows(file):
            found.setdefault((step, index), set()).add((samples, pixels))
    return found


def loss_difference(run: Path, reference: Path) -> float:
    """Return the largest relative difference of the cross-entropy, over the reference's windows of logged steps.

    Where a stop has cut a window in two, its parts are put together again.
    """
    worst, parts = 0.0, iter(rows(run / "metrics.jsonl"))
    for row in rows(reference / "metrics.jsonl"):
        window = [next(parts)]
        while window[-1]["step"] < row["step"]:
            window.append(next(parts))
        images = [part["images_per_second"] * part["seconds"] for part in window]
        total = sum(part["cross_entropy"] * count for part, count in zip(window, images, strict=True))
        worst = max(worst, abs(total / sum(images) - row["cross_entropy"]) / row["cross_entropy"])
    return worst


def weight_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Return the largest difference of a weight or statistic, relative to the largest of its tensor."""
    pairs = [(ours["model"][key].double(), value.double()) for key, value in theirs["model"].items()]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)


def compare(place: Place) -> tuple[dict[str, Any], list[str]]:
    """Return the figures of the run beside the undisturbed one, and what does not hold, in words."""
    run, reference = place.scratch / "run", place.scratch / "reference"
    ours, theirs = micro_batches(place, "run"), micro_batches(place, "reference")
    judged, expected = (rows(folder / "evaluations.jsonl") for folder in (run, reference))
    differing = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
    losses = [row["cross_entropy"] for row in rows(reference / "metrics.jsonl")]
    figures = {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "micro_batches": len(theirs),
        "micro_batches_that_differ": len(differing),
        "loss_difference": loss_difference(run, reference),
        "weight_difference": weight_difference(last_checkpoint(run), last_checkpoint(reference)),
        "evaluation_difference": max(
            abs(row["loss"] - other["loss"]) / other["loss"] for row, other in zip(judged, expected, strict=True)
        ),
    }
    broken = unsound_logs(run, reference)
    if figures["micro_batches_that_differ"]:
        broken.append(f"{figures['micro_batches_that_differ']} micro-batches are others")
    if max(figures["loss_difference"], figures["evaluation_difference"]) > TOLERANCE:
        broken.append("the loss is another")
    if [row["step"] for row in judged] != [row["step"] for row in expected]:
        broken.append(f"evaluations at steps {[row['step'] for row in judged]}")
    return figures, broken


def to_text(stages: list[Stage], figures: dict[str, Any], broken: list[str]) -> str:
    """Return the table for people, in Markdown."""
    lines = ["| nodes | change | ranks that train | stand by | from step | starts | seconds until a checkpoint |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [
        f"| {one.nodes} | {one.change} | {one.ranks} | {one.nodes - one.ranks} | {one.from_step} | {one.starts} "
        f"| {one.seconds:.1f} |"
        for one in stages
    ]
    told = [f"- {name.replace('_', ' ')}: {value:.3g}" for name, value in figures.items()]
    return "\n".join([*lines, "", *told, f"- promises broken: {'; '.join(broken) or 'none'}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="4,3,2,1,4")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    scratch, begun = Path(tempfile.mkdtemp(prefix="elastic-")), time.monotonic()
    place = Place(scratch, prepare_digits(scratch, IMAGES), scratch / "elastic.toml", free_port())
    place.recipe.write_text(RECIPE.format(steps=args.steps))
    nodes: list[Node] = []
    try:
        stages = run_elastic(place, [int(word) for word in args.nodes.split(",")], nodes)
        words = [sys.executable, *place.words("reference")]
        subprocess.run(words, env=place.environment("reference"), stdout=subprocess.DEVNULL, check=True)
    finally:
        for node in nodes:
            for process in [node.agent, *node.agent.children(recursive=True)] if node.agent.is_running() else []:
                process.kill()
    figures, broken = compare(place)
    seconds = time.monotonic() - begun
    if args.json:
        versions = {"torch": torch.__version__}
        print(json.dumps({"bench": "elastic", "device": "cpu", "versions": versions, "seconds": seconds, **figures,
                          "stages": [vars(one) for one in stages], "broken": broken}))  # fmt: skip
    else:
        print(f"{args.steps} steps in {seconds:.0f} s\n\n{to_text(stages, figures, broken)}")
    if broken:
        print(f"kept: {scratch}", file=sys.stderr)
        return 3
    shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
