"""What a training asks of the stores that its data and its run lie in: bytes, time, disk, requests and their price.

The fetcher brings the shards of one variant after the other, in the order of the phases, while training goes on; until
a shard is there, the records that come next come one by one. So a phase takes as long as its steps do, or as what it
reads takes to come, whichever is longer. What the cache has no room for comes again in every epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imagesprint.diagnosis.storage_prices import Requests, price_list
from imagesprint.diagnosis.store_speed import ReadSpeed, WriteSpeed
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Root
from imagesprint.records.remote.downloads import PIECE_BYTES
from imagesprint.records.remote.metadata import FOLDER
from imagesprint.runs.mirror_process import LEAST_PAUSE
from imagesprint.storage.cache import cache_folder, cache_limit, capacity
from imagesprint.storage.lease import RENEWED_EVERY
from imagesprint.storage.store import PIECE
from imagesprint.storage.url import Url
from imagesprint.training.metering import LOG_EVERY

_METADATA: Final = 3  # requests for dataset.json and the index of a split, and a look whether the variant is there
_SENT_ROWS: Final = 3  # files that grow while training goes on: metrics.jsonl, TensorBoard's, log.txt


@dataclass(frozen=True)
class SplitBytes:
    """A split that a training reads: the bytes of its `records` in shards, of those which lie in the cache, and of the
    shards that do or will once all has come. The rest is streamed.
    """

    variant: str
    split: str
    records: int
    num_bytes: int
    cached_bytes: int
    kept_bytes: int

    @property
    def mean_bytes(self) -> float:
        """Return the bytes of a record."""
        return max(1.0, self.num_bytes / max(1, self.records))

    @property
    def missing_bytes(self) -> int:
        """Return what has yet to come into the cache."""
        return max(0, self.kept_bytes - self.cached_bytes)

    @property
    def streamed_bytes(self) -> int:
        """Return what the cache has no room for: it is read from the store in every epoch."""
        return self.num_bytes - self.kept_bytes


@dataclass(frozen=True)
class CacheRoom:
    """The cache at `folder`: how many bytes may lie in it, by its `limit` (None without one) and the disk, and how many
    of this training's will.
    """

    folder: Path
    limit: int | None
    room: int
    num_bytes: int


@dataclass(frozen=True)
class Steps:
    """The `steps` of a phase, as with all data at hand: so many `images` of `variant` in `epochs` and `seconds`."""

    variant: str
    steps: int
    seconds: float
    images: int
    epochs: float


@dataclass(frozen=True)
class Price:
    """US dollars by a cloud's list: of `requests`, and of bytes that leave the store's region, where they do."""

    requests: float
    egress: float
    by: str
    source: str
    date: str


@dataclass(frozen=True)
class DataStorage:
    """What reading the data at `url` takes. Times are seconds, None where the store's speed is not known.

    `download_bytes` come into the cache in `download_seconds`, of which training waits for `first_step_seconds` before
    its first step and `waiting_seconds` later; the rest is `hidden_seconds`. `streamed_bytes_per_epoch` has those of
    each phase. `egress_bytes` is all that comes. `cache` and what lies in it are not known for another machine.
    """

    url: Url
    speed: ReadSpeed | None
    splits: list[SplitBytes]
    cache: CacheRoom | None
    download_bytes: int
    streamed_bytes_per_epoch: list[int]
    egress_bytes: int
    requests: Requests
    price: Price | None
    download_seconds: float | None = None
    first_step_seconds: float | None = None
    waiting_seconds: float | None = None
    hidden_seconds: float | None = None


@dataclass(frozen=True)
class RunStorage:
    """What sending a run to `url` takes: the bytes of its checkpoints, the seconds of one and of all, and those for
    which training waits at the end, when the last one is on its way; None where the store's speed is not known.
    """

    url: Url
    speed: WriteSpeed | None
    upload_bytes: int
    requests: Requests
    price: Price | None
    seconds_each: float | None
    seconds: float | None
    seconds_at_the_end: float | None


@dataclass(frozen=True)
class Storage:
    """What a training asks of stores; None for what lies on this machine."""

    data: DataStorage | None
    run: RunStorage | None


def find_splits(root: Root, recipe: Recipe, is_here: bool = True) -> tuple[list[SplitBytes], CacheRoom | None]:
    """Return the splits that a training on `root`, which has a URL, reads, in the order in which they are fetched, and
    the cache; for another machine (`is_here` False) as for a cache that is empty and large enough.
    """
    wanted = [(root.nearest(recipe.eval_source), "validation")]
    wanted += [(root.nearest(phase.source), "train") for phase in recipe.phases]
    found, own = [], 0
    shards: list[tuple[list[int], list[int]]] = []  # of each split: sizes, and bytes in the cache (−1 without a file)
    for variant, split in dict.fromkeys(wanted):
        info = root.manifest(variant).splits[split]
        sizes = [shard.bytes for shard in info.shards]
        remote = root.dataset(variant, split).remote if is_here else None
        there = [-1] * len(sizes) if remote is None else remote.shard_bytes()
        shards.append((sizes, there))
        own += sum(size for size, num_bytes in zip(sizes, there, strict=True) if num_bytes >= 0)
        cached = sum(max(0, num_bytes) for num_bytes in there)
        found.append(SplitBytes(variant, split, info.num_records, sum(sizes), cached, sum(sizes)))
    if not is_here:
        return found, None
    folder = cache_folder() / FOLDER
    whole = capacity(folder)
    left = whole - own
    for number, (sizes, there) in enumerate(shards):
        kept, left = _kept(sizes, there, left)
        found[number] = replace(found[number], kept_bytes=kept)
    return found, CacheRoom(cache_folder(), cache_limit(), whole, sum(split.kept_bytes for split in found))


def _kept(sizes: Sequence[int], there: Sequence[int], left: int) -> tuple[int, int]:
    """The bytes of a split's shards that have or get a file, as `CachedSplit` gives them, and the room that is left."""
    kept, is_full = 0, False
    for size, num_bytes in zip(sizes, there, strict=True):
        if num_bytes >= 0:
            kept += size
        elif not is_full and size <= left:
            kept, left = kept + size, left - size
        else:
            is_full = True
    return kept, left


def plan_data(
    url: Url, splits: list[SplitBytes], cache: CacheRoom | None, speed: ReadSpeed | None, phases: Sequence[Steps]
) -> tuple[DataStorage, list[float]]:
    """Return what reading from `url` takes, and the seconds of each phase with that: no fewer than its steps take."""
    of_variant = {split.variant: split for split in splits if split.split == "train"}
    streamed = [of_variant[phase.variant].streamed_bytes for phase in phases]
    download = sum(split.missing_bytes for split in splits)
    egress = download + sum(round(num_bytes * phase.epochs) for num_bytes, phase in zip(streamed, phases, strict=True))
    timeline = None if speed is None else _timeline(splits, speed, phases)
    seconds = [phase.seconds for phase in phases] if timeline is None else timeline.seconds
    requests = _requests(splits, phases)
    price = _price(url, requests, egress)
    found = DataStorage(url, speed, splits, cache, download, streamed, egress, requests, price)
    if timeline is None:
        return found, seconds
    waiting = sum(seconds) - sum(phase.seconds for phase in phases)
    return replace(
        found,
        download_seconds=timeline.download,
        first_step_seconds=timeline.first,
        waiting_seconds=waiting,
        hidden_seconds=max(0.0, timeline.download + timeline.streaming - timeline.first - waiting),
    ), seconds


@dataclass(frozen=True)
class _Timeline:
    """`seconds` of each phase with its waiting; those until the `first` step's records are here; those of all downloads
    and of all streaming.
    """

    seconds: list[float]
    first: float
    download: float
    streaming: float


def _timeline(splits: Sequence[SplitBytes], speed: ReadSpeed, phases: Sequence[Steps]) -> _Timeline:
    of_variant = {split.variant: split for split in splits if split.split == "train"}
    rate = speed.bytes_per_second
    # Seconds after the first step could begin: until all that was asked for so far is here, and what is now.
    link = sum(split.missing_bytes for split in splits if split.split == "validation") / rate
    first = now = _first_step(of_variant[phases[0].variant], speed, phases[0])
    seconds, streaming, arrived = list[float](), 0.0, dict[str, float]()
    for phase in phases:
        split = of_variant[phase.variant]
        if phase.variant not in arrived:
            ready = link + split.missing_bytes * min(1.0, phase.epochs) / rate if split.missing_bytes else 0.0
            link += split.missing_bytes / rate
            arrived[phase.variant] = link if split.missing_bytes else 0.0
        else:
            ready = arrived[phase.variant]
        stream = phase.epochs * split.streamed_bytes / split.mean_bytes / speed.records_per_second(split.mean_bytes)
        link, streaming = link + stream, streaming + stream
        seconds.append(max(phase.seconds, max(0.0, ready - now) + stream))
        now += seconds[-1]
    download = sum(split.missing_bytes for split in splits) / rate
    return _Timeline(seconds, first, download, streaming)


def _first_step(split: SplitBytes, speed: ReadSpeed, phase: Steps) -> float:
    """Seconds until the records of the first step are here."""
    missing = phase.images / max(1, phase.steps) * (1 - split.cached_bytes / split.num_bytes)
    return speed.latency + missing / speed.records_per_second(split.mean_bytes) if missing else 0.0


def _requests(splits: Sequence[SplitBytes], phases: Sequence[Steps]) -> Requests:
    """At the most: the pieces of all that is missing, each record of it once more by itself, where it is needed before
    its piece is here, and each that is streamed once an epoch.
    """
    pieces = sum(-(-split.missing_bytes // PIECE_BYTES) for split in splits)
    single = sum(split.missing_bytes / split.mean_bytes for split in splits)
    of_variant = {split.variant: split for split in splits if split.split == "train"}
    for phase in phases:
        single += phase.epochs * of_variant[phase.variant].streamed_bytes / of_variant[phase.variant].mean_bytes
    return Requests(get=_METADATA * len(splits) + pieces + round(single), list=1)


def plan_run(
    url: Url, speed: WriteSpeed | None, checkpoints: int, checkpoint_bytes: int, seconds: float, step: float
) -> RunStorage:
    """Return what sending a run of so many `seconds`, in steps of `step`, to `url` takes."""
    parts = -(-checkpoint_bytes // PIECE)
    of_one = parts + 2 if parts > 1 else 1  # begun and ended
    rows = _SENT_ROWS * seconds / max(LEAST_PAUSE, LOG_EVERY * step)
    renewals = seconds / RENEWED_EVERY  # of the lease
    put = checkpoints * of_one + rows + renewals
    requests = Requests(get=round(renewals), put=round(put), list=round(2 + renewals))
    num_bytes = checkpoints * checkpoint_bytes
    each = None if speed is None else checkpoint_bytes / speed.bytes_per_second
    late = None if each is None else max(each, checkpoints * each - seconds)
    price = _price(url, requests, 0)
    return RunStorage(url, speed, num_bytes, requests, price, each, None if each is None else checkpoints * each, late)


def _price(url: Url, requests: Requests, egress: int) -> Price | None:
    prices = price_list(url)
    if prices is None:
        return None
    return Price(prices.of(requests), egress / 1e9 * prices.egress, prices.name, prices.source, prices.date)
