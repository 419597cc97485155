"""`bench data`: how fast a prepared dataset is loaded, by how many threads, where the time goes, and how others do."""

import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from imagesprint.console import Console
from imagesprint.diagnosis.contest import Open, Pass, PassTime, median_ratio, run_rounds
from imagesprint.diagnosis.data_programs import (
    HELD_IMAGES,
    LEAD,
    LoadingWork,
    beside_entropy,
    decoder_alone,
    pillow,
    running_loader,
    timed_loader,
    whole_loader,
)
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.diagnosis.stage_costs import thread_counts
from imagesprint.images.decoders import decoder_name, use_native
from imagesprint.records.dataset import Dataset, open_root
from imagesprint.storage.url import Place, Url

BATCH_SIZE: Final = 256
ROUNDS: Final = 5  # beside others
PASS_SECONDS: Final = 1.0  # of the loader; slower programs take longer
OWN_ROUNDS: Final = 5 * ROUNDS  # of our parts beside each other: shorter and more, for they differ by a few percent

LOADER, DECODER, ENTROPY, TIMED = "loader", "decoder alone", "entropy decoding alone", "loader with clocks"
PEERS: Final[Mapping[str, Callable[[LoadingWork], Pass]]] = {"pillow": pillow}
_PACKAGES: Final = ("torch", "numpy", "pillow")

PassTimes = dict[str, list[PassTime]]  # of programs that did the same work in turns


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds: images a second, and a second of CPU time."""

    images_per_second: float
    images_per_cpu_second: float


@dataclass(frozen=True)
class PeerTiming:
    """That of another program, and how many times as many images ours does a second, and a second of CPU time."""

    images_per_second: float
    images_per_cpu_second: float
    speedup: float
    cpu_speedup: float


@dataclass(frozen=True)
class AtThreads:
    """What one number of threads came to: our loader, its decoder alone, and the peers by name."""

    threads: int
    images_per_second: float
    images_per_cpu_second: float
    decoder_alone: Timing
    loader_over_decoder_alone: float
    peers: dict[str, PeerTiming]


@dataclass(frozen=True)
class Inside:
    """Where one thread's time goes: microseconds an image of each of `stages` (of data in a store, `storage` is waiting
    for it, which is nothing once the cache has all), and `entropy` decoding alone, None where no image is a JPEG.
    """

    stages: dict[str, float]
    python_milliseconds_per_batch: float
    entropy: dict[str, float] | None


@dataclass(frozen=True)
class DataBench:
    """The result of `bench data`; `by_threads` ends with the most threads. `inside` is None without the native decoder,
    `left_out` says why programs are.
    """

    device: str
    versions: dict[str, str]
    data: Place
    image_format: str
    images: int
    mean_bytes: float
    batch_size: int
    rounds: int
    own_rounds: int
    image_size: int
    threads: int
    decoder: str
    by_threads: list[AtThreads]
    left_out: dict[str, str]
    inside: Inside | None

    def as_json(self) -> dict[str, object]:
        """Return the object that `bench data --json` prints."""
        last = self.by_threads[-1]
        speeds = {key: getattr(last, key) for key in ("images_per_second", "images_per_cpu_second", "peers")}
        found = {name: value for name, value in vars(self).items() if name != "inside"}
        return {"bench": "data", **speeds, **found, **({} if self.inside is None else vars(self.inside))}


def bench_data(
    root: Place,
    variant: str | None,
    image_size: int,
    threads: int | None,
    console: Console,
    peers: Mapping[str, Callable[[LoadingWork], Pass]] = PEERS,
    packages: Sequence[str] = (),
) -> DataBench:
    """Measure loading the training images of `variant` (by default the largest) with 1, 2, 4, … `threads` (all cores).

    Beside it `peers` do the same work, by name; `packages` are theirs, whose versions are told. Raises UsageError where
    there is no such dataset.
    """
    opened = open_root(root)
    variant = variant or opened.variants[0]
    dataset = opened.dataset(variant, "train")
    cores = threads or len(os.sched_getaffinity(0))
    by_threads: list[AtThreads] = []
    left_out: dict[str, str] = {}
    inside = None
    for count in thread_counts(cores):
        work = work_of(root, variant, image_size, count)
        few = min(work.steps * ROUNDS // OWN_ROUNDS, HELD_IMAGES // work.batch_size - LEAD)
        short = replace(work, steps=max(2, few))
        programs = _own_programs(short, dataset)
        own, missing = run_rounds(programs, {TIMED, ENTROPY}, OWN_ROUNDS, _progress(console, count, OWN_ROUNDS))
        programs = {LOADER: partial(whole_loader, work), **{name: partial(peer, work) for name, peer in peers.items()}}
        others, failed = run_rounds(programs, peers, ROUNDS, _progress(console, count, ROUNDS))
        left_out.update({**missing, **failed})
        by_threads.append(_at(short, own, work, others))
        inside = _inside(short, own) if TIMED in own else inside
    console.live(f"measured with up to {cores} thread{'' if cores == 1 else 's'}", last=True)
    return DataBench(
        device=processor(),
        versions=versions(*_PACKAGES, *packages),
        data=dataset.path,
        image_format=dataset.image_format,
        images=len(dataset),
        mean_bytes=float(dataset.encoded_lengths.mean()),
        batch_size=work.batch_size,
        rounds=ROUNDS,
        own_rounds=OWN_ROUNDS,
        image_size=image_size,
        threads=cores,
        decoder=decoder_name(),
        by_threads=by_threads,
        left_out=left_out,
        inside=inside,
    )


def _own_programs(work: LoadingWork, dataset: Dataset) -> dict[str, Open]:
    programs: dict[str, Open] = {LOADER: partial(running_loader, work), DECODER: partial(decoder_alone, work)}
    if work.threads == 1 and use_native():
        programs[TIMED] = partial(timed_loader, work)
        if dataset.image_format == "jpeg":
            programs[ENTROPY] = partial(beside_entropy, work)
    return programs


def work_of(root: Place, variant: str, image_size: int, threads: int) -> LoadingWork:
    """Return as many batches of the training images as the loader makes in PASS_SECONDS."""
    images = len(open_root(root).dataset(variant, "train"))
    batch_size = min(BATCH_SIZE, images)
    few = LoadingWork(root, variant, image_size, batch_size, max(2, 512 // batch_size), threads)
    loader = few.loader()
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds = time.perf_counter() - start
    return replace(few, steps=max(few.steps, math.ceil(few.steps * PASS_SECONDS / seconds)))


def _progress(console: Console, threads: int, rounds: int) -> Callable[[str], None]:
    """Return what is told before each pass which program has its turn."""
    passes: Counter[str] = Counter()

    def show(name: str) -> None:
        where = f"round {passes[name]}/{rounds}" if passes[name] else "getting ready"
        passes[name] += 1
        console.live(f"measuring  {where}  {name}", f"threads {threads}")

    return show


def _at(short: LoadingWork, own: PassTimes, work: LoadingWork, others: PassTimes) -> AtThreads:
    """What one number of threads came to: `own` parts did the `short` work, the loader beside `others` the whole."""
    ours, alone, beside = _clocked(own[LOADER]), _clocked(own[DECODER]), others[LOADER]
    peers = {
        name: PeerTiming(
            **vars(_timing(work, theirs)),
            speedup=median_ratio(_seconds(theirs), _seconds(beside)),
            cpu_speedup=median_ratio(_cpu_seconds(theirs), _cpu_seconds(beside)),
        )
        for name, theirs in others.items()
        if name != LOADER
    }
    over_alone = median_ratio(_seconds(alone), _seconds(ours))
    return AtThreads(
        work.threads,
        **vars(_timing(work, beside)),
        decoder_alone=_timing(short, alone),
        loader_over_decoder_alone=over_alone,
        peers=peers,
    )


def _timing(work: LoadingWork, passes: list[PassTime]) -> Timing:
    return Timing(
        work.images / statistics.median(_seconds(passes)), work.images / statistics.median(_cpu_seconds(passes))
    )


def _inside(work: LoadingWork, own: PassTimes) -> Inside:
    def microseconds(key: str) -> float:
        return 1e6 * float(statistics.median(one.extra[key] for one in own[TIMED]))

    names = ("storage", "read", "crc") if isinstance(work.root, Url) else ("read", "crc")
    stages = {key: microseconds(key) for key in names}
    decoding = microseconds("jpeg")
    entropy: dict[str, float] | None = None
    if ENTROPY in own:
        entropy = _over_entropy(work, own)
        stages["entropy"] = (decoding + microseconds("resize")) / entropy["decoder_over_own"]  # of these images
        stages["idct_and_colour"] = decoding - stages["entropy"]
    stages["resize"] = microseconds("resize")
    stages["hand_over"] = microseconds("python")
    return Inside(stages, work.batch_size * stages["hand_over"] / 1000, entropy)


def _over_entropy(work: LoadingWork, samples: PassTimes) -> dict[str, float]:
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


def _clocked(samples: list[PassTime]) -> list[PassTime]:
    """What each pass of `running_loader` or `decoder_alone` took by its own clocks."""
    return [PassTime(sample.extra["seconds"], sample.extra["cpu_seconds"]) for sample in samples]


def _seconds(samples: list[PassTime]) -> list[float]:
    return [sample.seconds for sample in samples]


def _cpu_seconds(samples: list[PassTime]) -> list[float]:
    return [sample.cpu_seconds for sample in samples]
