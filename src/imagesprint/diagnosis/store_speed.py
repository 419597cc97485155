"""How fast a store is from here: measured in a few seconds with the requests that training makes, and kept."""

import hashlib
import json
import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from imagesprint.diagnosis.machine import kept_measurements
from imagesprint.errors import FileError, StorageError
from imagesprint.files import write_text
from imagesprint.records.dataset import Root
from imagesprint.records.manifest import SPLITS
from imagesprint.records.remote.downloads import FILLING, MOST_FILLING, PIECE_BYTES, THREADS
from imagesprint.storage.store import PIECE, PIECES_AT_ONCE, Store
from imagesprint.storage.url import Url

SMALL_BYTES: Final = 16 << 10  # of a request that takes as long as one for a byte would
LOOKS: Final = 30  # small requests, one after the other
SECONDS: Final = 1.0  # of each kind of requests; the last ones may end later
PROBE: Final = ".imagesprint-probe-"  # what the name of a file begins with that is written to measure, and deleted
# What makes another store of the same URL.
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_ACCOUNT_NAME")


@dataclass(frozen=True)
class ReadSpeed:
    """What reading from a store came to on the day `made`.

    `latency` and `worst_latency` are the median and the longest of LOOKS requests for SMALL_BYTES, in seconds;
    `one_stream` and `bytes_per_second` are bytes a second of large requests, one at a time and as many as fill the
    cache; `requests_per_second` is of small ones, as many at a time as bring single records.
    """

    made: str
    latency: float
    worst_latency: float
    one_stream: float
    bytes_per_second: float
    requests_per_second: float

    def records_per_second(self, mean_bytes: float) -> float:
        """Return how many records of so many bytes come each second, one by a request."""
        return min(self.requests_per_second, self.bytes_per_second / max(mean_bytes, 1.0))


@dataclass(frozen=True)
class WriteSpeed:
    """What writing to a store came to on the day `made`: bytes a second of one file, in pieces as checkpoints are."""

    made: str
    bytes_per_second: float


Speed = TypeVar("Speed", ReadSpeed, WriteSpeed)


@dataclass(frozen=True)
class Extent:
    """A file in a store that can be read from: its key and its bytes."""

    key: str
    num_bytes: int


def shards_of(root: Root) -> list[Extent]:
    """Return the shards of the largest variant of a ROOT, those of training first."""
    name = root.variants[0]
    splits = root.manifest(name).splits
    found = [Extent(f"{name}/{shard.name}", shard.bytes) for split in SPLITS for shard in splits[split].shards]
    return [extent for extent in found if extent.num_bytes]


def measure_reading(store: Store, files: Sequence[Extent]) -> ReadSpeed:
    """Measure `store` by parts of `files`, each drawn at random, for about three SECONDS. Raises StorageError."""
    draws = random.Random(secrets.randbits(64))  # a cache on the way must not know what comes

    def read(num_bytes: int) -> int:
        extent = files[draws.randrange(len(files))]
        size = min(num_bytes, extent.num_bytes)
        return len(store.read(extent.key, draws.randrange(extent.num_bytes - size + 1), size))

    read(1)  # the first one also connects
    latencies = _latencies(lambda: read(SMALL_BYTES))
    one = _rate(1, lambda: read(PIECE_BYTES))[0]
    several = _rate(MOST_FILLING, lambda: read(PIECE_BYTES))[0]
    _, requests = _rate(THREADS - FILLING, lambda: read(SMALL_BYTES))
    made = time.strftime("%Y-%m-%d")
    return ReadSpeed(made, median(latencies), max(latencies), one, max(one, several), requests)


def _latencies(read: Callable[[], object]) -> list[float]:
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < LOOKS and (len(taken) < 3 or time.perf_counter() - began < 3 * SECONDS):
        start = time.perf_counter()
        read()
        taken.append(time.perf_counter() - start)
    return taken


def _rate(threads: int, read: Callable[[], int]) -> tuple[float, float]:
    """Bytes and requests a second of so many threads, each of which reads again and again."""
    began = time.perf_counter()

    def serve() -> tuple[int, int]:
        num_bytes = requests = 0
        while not requests or time.perf_counter() - began < SECONDS:
            num_bytes, requests = num_bytes + read(), requests + 1
        return num_bytes, requests

    with ThreadPoolExecutor(threads) as pool:
        counts = [future.result() for future in [pool.submit(serve) for _ in range(threads)]]
    seconds = time.perf_counter() - began
    return sum(count for count, _ in counts) / seconds, sum(count for _, count in counts) / seconds


def measure_writing(store: Store) -> WriteSpeed:
    """Measure `store` by a file of PIECES_AT_ONCE pieces, which is deleted again. Raises StorageError."""
    key, data = f"{PROBE}{secrets.token_hex(8)}", os.urandom(PIECES_AT_ONCE * PIECE)
    try:
        start = time.perf_counter()
        store.write(key, data)
        seconds = time.perf_counter() - start
    finally:
        with suppress(StorageError):  # who may write may not always delete, and the error of writing says more
            store.delete(key)
    return WriteSpeed(time.strftime("%Y-%m-%d"), len(data) / seconds)


def keep_speed(url: Url, speed: ReadSpeed | WriteSpeed) -> None:
    """Keep what was measured of the bucket of `url` for `train`, which measures nothing, where that is possible."""
    file = _file(url, type(speed))
    with suppress(OSError, FileError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(asdict(speed), indent=1) + "\n")


def kept_speed(url: Url, kind: type[Speed]) -> Speed | None:
    """Return what was measured last of the bucket of `url`; None where nothing was."""
    try:
        return kind(**json.loads(_file(url, kind).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _file(url: Url, kind: type) -> Path:
    facts = [url.scheme, url.host, *(os.environ.get(name, "") for name in _ENDPOINTS)]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return kept_measurements() / f"{kind.__name__.lower()}-{digest}.json"
