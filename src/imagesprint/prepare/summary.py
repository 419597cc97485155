"""What `prepare` says in the end: what a ROOT holds, what it took, and what is missing where only parts are there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagesprint.prepare.assembly import Assembly
from imagesprint.prepare.finishing import count_converted, count_rejected, rejection_kind
from imagesprint.records.dataset import check_shard_size
from imagesprint.records.manifest import SPLITS, Manifest


@dataclass(frozen=True)
class Summary:
    """What a ROOT holds after `prepare`.

    `images` counts a split, `rejected` files by the kind of reason, `converted` those that were no JPEG in RGB or grey
    by what they were; `variants` gives bytes of shards. `written` names the variants that were not finished before this
    call. `missing` has, for each split, the ranges (first, end) of shards that are not there yet, of `shards`; it is
    empty where the dataset is finished, and where it is not, the counts are of the shards that are there. `cpu_seconds`
    is what was spent on "decode" and each of `written`, over all parts and interruptions. `images_per_second` is of
    this call, 0 where it had nothing to do.
    """

    root: Path
    images: dict[str, int]
    classes: int
    rejected: dict[str, int]
    converted: dict[str, int]
    variants: dict[str, int]
    written: tuple[str, ...]
    missing: dict[str, tuple[tuple[int, int], ...]]
    shards: dict[str, int]
    cpu_seconds: dict[str, float]
    seconds: float
    images_per_second: float


def summarise(
    root: Path, variants: tuple[str, ...], written: tuple[str, ...], assembly: Assembly, seconds: float
) -> Summary:
    """Return the summary of a ROOT whose `variants` are finished. Raises RecordError if a shard is there no longer."""
    manifests = {variant: Manifest.read(root / variant) for variant in variants}
    for variant, manifest in manifests.items():
        for shard in (shard for split in SPLITS for shard in manifest.splits[split].shards):
            check_shard_size(root / variant / shard.name, shard.bytes)
    folder = root / variants[0]
    return Summary(
        root=root,
        images={split: manifests[variants[0]].splits[split].num_records for split in SPLITS},
        classes=len(assembly.plan.classes),
        rejected=count_rejected(folder),
        converted=count_converted(folder),
        variants={
            variant: sum(shard.bytes for split in SPLITS for shard in manifest.splits[split].shards)
            for variant, manifest in manifests.items()
        },
        written=written,
        missing={},
        shards=assembly.plan.counts,
        cpu_seconds=_cpu_seconds(assembly),
        seconds=seconds,
        images_per_second=assembly.images_per_second,
    )


def summarise_parts(root: Path, assembly: Assembly, seconds: float) -> Summary:
    """Return the summary of a ROOT that holds some of the shards only."""
    images = Counter(dict.fromkeys(SPLITS, 0))
    rejected: Counter[str] = Counter()
    converted: Counter[str] = Counter()
    variants: Counter[str] = Counter()
    for result in assembly.results:
        images[result.split] += next(iter(result.variants.values())).num_records
        rejected.update(rejection_kind(row["reason"]) for row in result.rejected)
        converted.update({former: len(positions) for former, positions in result.converted.items()})
        variants.update({variant: info.bytes for variant, info in result.variants.items()})
    return Summary(
        root=root,
        images=dict(images),
        classes=len(assembly.plan.classes),
        rejected=dict(rejected),
        converted=dict(converted),
        variants=dict(variants),
        written=(),
        missing={
            split: _ranges([shard.number for shard in assembly.unfinished if shard.split == split]) for split in SPLITS
        },
        shards=assembly.plan.counts,
        cpu_seconds=_cpu_seconds(assembly),
        seconds=seconds,
        images_per_second=assembly.images_per_second,
    )


def _cpu_seconds(assembly: Assembly) -> dict[str, float]:
    spent: dict[str, float] = {}
    for result in assembly.results:
        for name, seconds in result.cpu_seconds.items():
            spent[name] = spent.get(name, 0.0) + seconds
    return spent


def _ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return ascending `numbers` as ranges (first, end), the end not included."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return tuple(found)
