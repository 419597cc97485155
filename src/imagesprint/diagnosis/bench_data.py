"""`bench data`: how fast a prepared dataset is loaded, by how many threads, where the time goes, and how others do."""

import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.diagnosis.contest import Open, Pass, Sample, median_ratio, run_rounds
from imagesprint.diagnosis.data_programs import (
    HELD_IMAGES,
    LEAD,
    Work,
    beside_entropy,
    decoder_alone,
    pillow,
    running_loader,
    timed_loader,
    whole_loader,
)
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.images.decoders import decoder_name, use_native
from imagesprint.records.dataset import Dataset, open_root

BATCH_SIZE: Final = 256
ROUNDS: Final = 5  # beside others
PASS_SECONDS: Final = 1.0  # of the loader; slower programs take longer
OWN_ROUNDS: Final = 5 * ROUNDS  # of our parts beside each other: shorter and more, for they differ by a few percent

LOADER, DECODER, ENTROPY, TIMED = "loader", "decoder alone", "entropy decoding alone", "loader with clocks"
PEERS: Final[Mapping[str, Callable[[Work], Pass]]] = {"pillow": pillow}
_PACKAGES: Final = ("torch", "numpy", "pillow")

Samples = dict[str, list[Sample]]


@dataclass(frozen=True)
class Contest:
    """Programs that did the same work in turns."""

    work: Work
    samples: Samples


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds: images a second, and a second of CPU time."""

    images_per_second: float
    images_per_cpu_second: float


def bench_data(
    root: Path,
    variant: str | None,
    image_size: int,
    threads: int | None,
    console: Console,
    peers: Mapping[str, Callable[[Work], Pass]] = PEERS,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure loading the training images of `variant` (by default the largest) with 1, 2, 4, … `threads` (all cores).

    Beside it `peers` do the same work, by name; `packages` are theirs, whose versions are told. Return the object that
    `imagesprint bench data --json` prints. Raises UsageError where there is no such dataset.
    """
    opened = open_root(root)
    variant = variant or opened.variants[0]
    dataset = opened.dataset(variant, "train")
    cores = threads or len(os.sched_getaffinity(0))
    progress = _Progress(console)
    contests = []
    left_out: dict[str, str] = {}
    for count in _thread_counts(cores):
        work = work_of(root, variant, image_size, count)
        few = min(work.steps * ROUNDS // OWN_ROUNDS, HELD_IMAGES // work.batch_size - LEAD)
        short = replace(work, steps=max(2, few))
        progress.begin(count, OWN_ROUNDS)
        own, missing = run_rounds(_own_programs(short, dataset), {TIMED, ENTROPY}, OWN_ROUNDS, progress.show)
        progress.begin(count, ROUNDS)
        others, failed = run_rounds(_with_peers(work, peers), peers, ROUNDS, progress.show)
        left_out.update({**missing, **failed})
        contests.append((Contest(short, own), Contest(work, others)))
    progress.end()
    return _result(dataset, contests, left_out, versions(*_PACKAGES, *packages))


def _thread_counts(most: int) -> list[int]:
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


def _own_programs(work: Work, dataset: Dataset) -> dict[str, Open]:
    programs: dict[str, Open] = {LOADER: partial(running_loader, work), DECODER: partial(decoder_alone, work)}
    if work.threads == 1 and use_native():
        programs[TIMED] = partial(timed_loader, work)
        if dataset.image_format == "jpeg":
            programs[ENTROPY] = partial(beside_entropy, work)
    return programs


def _with_peers(work: Work, peers: Mapping[str, Callable[[Work], Pass]]) -> dict[str, Open]:
    return {LOADER: partial(whole_loader, work), **{name: partial(peer, work) for name, peer in peers.items()}}


def work_of(root: Path, variant: str, image_size: int, threads: int) -> Work:
    """Return as many batches of the training images as the loader makes in PASS_SECONDS."""
    images = len(open_root(root).dataset(variant, "train"))
    batch_size = min(BATCH_SIZE, images)
    few = Work(root, variant, image_size, batch_size, max(2, 512 // batch_size), threads)
    loader = few.loader()
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds = time.perf_counter() - start
    return replace(few, steps=max(few.steps, math.ceil(few.steps * PASS_SECONDS / seconds)))


class _Progress:
    """The living line: which program has its turn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._all = 0

    def begin(self, threads: int, rounds: int) -> None:
        self._threads, self._rounds = threads, rounds
        self._passes: Counter[str] = Counter()

    def show(self, name: str) -> None:
        number = self._passes[name]
        self._passes[name] += 1
        self._all += 1
        where = f"round {number}/{self._rounds}" if number else "getting ready"
        self._console.live(f"measuring  {where}  {name}", f"threads {self._threads}")

    def end(self) -> None:
        self._console.live(f"measured {self._all} passes", last=True)


def _result(
    dataset: Dataset,
    contests: list[tuple[Contest, Contest]],
    left_out: Mapping[str, str],
    measured_with: Mapping[str, str],
) -> dict[str, Any]:
    by_threads = [_at(own, others) for own, others in contests]
    work, last = contests[-1][1].work, by_threads[-1]
    first = contests[0][0]
    return {
        "bench": "data",
        "device": processor(),
        "versions": dict(measured_with),
        "data": dataset.path,
        "image_format": dataset.image_format,
        "images": len(dataset),
        "mean_bytes": float(dataset.encoded_lengths.mean()),
        "batch_size": work.batch_size,
        "rounds": ROUNDS,
        "own_rounds": OWN_ROUNDS,
        "image_size": work.image_size,
        "threads": work.threads,
        "decoder": decoder_name(),
        "images_per_second": last["images_per_second"],
        "images_per_cpu_second": last["images_per_cpu_second"],
        "peers": last["peers"],
        "left_out": dict(left_out),
        "by_threads": by_threads,
        **(_inside(first.work, first.samples) if TIMED in first.samples else {}),
    }


def _at(own: Contest, others: Contest) -> dict[str, Any]:
    """What one number of threads came to."""
    ours, alone = _clocked(own.samples[LOADER]), _clocked(own.samples[DECODER])
    beside = others.samples[LOADER]
    return {
        "threads": own.work.threads,
        **vars(_timing(others.work, beside)),
        "decoder_alone": _timing(own.work, alone),
        "loader_over_decoder_alone": median_ratio(_seconds(alone), _seconds(ours)),
        "peers": {
            name: {
                **vars(_timing(others.work, theirs)),
                "speedup": median_ratio(_seconds(theirs), _seconds(beside)),
                "cpu_speedup": median_ratio(_cpu_seconds(theirs), _cpu_seconds(beside)),
            }
            for name, theirs in others.samples.items()
            if name != LOADER
        },
    }


def _timing(work: Work, samples: list[Sample]) -> Timing:
    return Timing(
        work.images / statistics.median(_seconds(samples)), work.images / statistics.median(_cpu_seconds(samples))
    )


def _inside(work: Work, samples: Samples) -> dict[str, Any]:
    """Where one thread's time goes, in microseconds an image, and its ratio to entropy decoding alone."""

    def microseconds(key: str) -> float:
        return 1e6 * float(statistics.median(sample.extra[key] for sample in samples[TIMED]))

    stages = {key: microseconds(key) for key in ("read", "crc")}
    decoding = microseconds("jpeg")
    entropy: dict[str, float] | None = None
    if ENTROPY in samples:
        entropy = _over_entropy(work, samples)
        stages["entropy"] = (decoding + microseconds("resize")) / entropy["decoder_over_own"]  # of these images
        stages["idct_and_colour"] = decoding - stages["entropy"]
    stages["resize"] = microseconds("resize")
    stages["hand_over"] = microseconds("python")
    return {
        "stages": stages,
        "python_milliseconds_per_batch": work.batch_size * stages["hand_over"] / 1000,
        "entropy": entropy,
    }


def _over_entropy(work: Work, samples: Samples) -> dict[str, float]:
    """Entropy decoding alone: by libjpeg of the whole image, and down to the crop's last row, and of that by our own.
    CPU time of decoder and loader over those; the loader's is what it takes over the decoder, which has a process of
    its own there.
    """
    found = {}
    over_decoder = median_ratio(_cpu_seconds(_clocked(samples[LOADER])), _cpu_seconds(_clocked(samples[DECODER])))
    decoder = [sample.extra["decoder"] for sample in samples[ENTROPY]]
    for part in ("whole", "rows", "own"):
        floor = [sample.extra[part] for sample in samples[ENTROPY]]
        found[f"{part}_microseconds"] = 1e6 * statistics.median(floor) / work.images
        found[f"decoder_over_{part}"] = median_ratio(decoder, floor)
        found[f"loader_over_{part}"] = found[f"decoder_over_{part}"] * over_decoder
    return found


def _clocked(samples: list[Sample]) -> list[Sample]:
    """What each pass of `running_loader` or `decoder_alone` took by its own clocks."""
    return [Sample(sample.extra["seconds"], sample.extra["cpu_seconds"]) for sample in samples]


def _seconds(samples: list[Sample]) -> list[float]:
    return [sample.seconds for sample in samples]


def _cpu_seconds(samples: list[Sample]) -> list[float]:
    return [sample.cpu_seconds for sample in samples]
