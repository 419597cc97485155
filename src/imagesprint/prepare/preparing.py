"""`prepare`: from a source of labelled images to a ROOT of shards with indexes, in several variants at once."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imagesprint.console import Console
from imagesprint.errors import RankError, UsageError
from imagesprint.prepare import IMAGE_FORMAT, MAX_REJECTED, QUALITY, VARIANTS
from imagesprint.prepare.assembly import Assembly, count_converted, count_rejected, rejection_kind
from imagesprint.prepare.parts import Parts, ShardResult, unfinished_variants
from imagesprint.prepare.places import RootPlace, check_writable, open_root_place
from imagesprint.prepare.plan import Part, Shard, ShardPlan, differences, make_plan, parse_part, share
from imagesprint.prepare.shard_writing import writing
from imagesprint.prepare.sources.remote import open_source_place
from imagesprint.prepare.sources.source import Listing, Source
from imagesprint.prepare.workers import count_workers
from imagesprint.records.dataset import FULL, is_variant_name, reading, variant_size
from imagesprint.records.manifest import FILE_NAME, IMAGE_FORMATS, SPLITS, Manifest
from imagesprint.records.shard_files import check_shard_size
from imagesprint.storage.naming import Naming
from imagesprint.storage.url import Place, Url, parse_place


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

    root: Place
    classes: int
    images: dict[str, int]
    rejected: dict[str, int]
    converted: dict[str, int]
    variants: dict[str, int]
    written: tuple[str, ...]
    missing: dict[str, tuple[tuple[int, int], ...]]
    shards: dict[str, int]
    cpu_seconds: dict[str, float]
    seconds: float
    images_per_second: float


def prepare(
    source: str | Place,
    root: str | Place,
    *,
    console: Console,
    source_kind: str | None = None,
    variants: tuple[str, ...] = VARIANTS,
    image_format: str = IMAGE_FORMAT,
    shards: int | None = None,
    part: str | None = None,
    quality: int = QUALITY,
    val_fraction: float | None = None,
    workers: int | None = None,
    max_rejected: float = MAX_REJECTED,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Summary:
    """Prepare `source` into `root`, or go on with it, or add variants to it; return what is there in the end.

    `source_kind` is one of `prepare.SOURCES`, by default found out. `image_format` is what the variants store: "jpeg"
    files or "raw" pixels. `part` "A:B" prepares train shards A up to B and the validation shards that belong to them;
    without it, rank `rank` of `world_size` prepares its share. A root with the shards of all parts becomes a dataset.
    `workers` processes work at it (default: the cores that this process may use); the bytes written do not depend on
    their number, nor on the parts. Either place may be a URL; the bytes do not depend on where they lie, either.

    Raises UsageError for options that make no sense or another plan than the root was prepared with, DataError for what
    is wrong with the images, StorageError where a store refuses or does not answer: what is finished stays.
    """
    begun = time.monotonic()
    source, root = _to_place(source), _to_place(root)
    variants = _check_variants(variants, image_format)
    workers = count_workers(workers)
    _check_options(quality, max_rejected, rank, world_size)
    _check_urls(source, root)
    check_writable(root)
    names = Naming()
    with names.errors(), open_source_place(source, source_kind, names, console) as opened:
        if isinstance(source, Path) and isinstance(root, Path):
            _check_apart(source, root)
        listing = _scan(opened, source, names, console)
        plan = make_plan(listing, opened.kind, shards, quality, val_fraction, seed)
        own = share(plan, rank, world_size) if part is None else parse_part(part, plan)
        for note in plan.notes:
            console.warn(note)
        with open_root_place(root, names, console) as place:
            assembly = Assembly(plan, opened, place, quality, workers, max_rejected, console)
            written = _make(place, variants, image_format, own, assembly, console)
            unfinished = assembly.unfinished if written else ()
            counts = _count_parts(assembly.results) if unfinished else _count_finished(place.path, variants)
    return _summarise(root, assembly, counts, () if unfinished else written, unfinished, begun)


def _to_place(place: str | Place) -> Place:
    return parse_place(place) if isinstance(place, str) else place


def _scan(opened: Source, source: Place, names: Naming, console: Console) -> Listing:
    """List the images of a source, and say what there is to say of it."""
    said = names.said(opened.path)
    if said != str(source):
        console.warn(f"{source} is not the source itself: {said} is taken")
    console.line(f"listing {said} ({opened.kind})")  # minutes where it holds millions of images
    listing = opened.scan()
    for note in listing.notes:  # before the plan: what it misses may be among what was left out
        console.warn(names.said(note))
    return listing


def _make(
    place: RootPlace, variants: tuple[str, ...], image_format: str, own: Part, assembly: Assembly, console: Console
) -> tuple[str, ...]:
    """Write what is missing of `own` and, where that makes all parts finished, join them; return the variants that were
    not finished before.
    """
    path, plan = place.path, assembly.plan
    place.lock.take_beginning(console)
    place.lock.take_part(own.first, own.end)
    place.pull()
    finished = _find_finished(path, plan, variants, image_format)
    written = tuple(name for name in variants if name not in finished)
    if written:
        _write_part(place, Parts(path, written, image_format), own, assembly)
        if assembly.unfinished:
            return written
    place.lock.release_all()
    place.lock.take_all()  # of several that find all shards finished the first joins them
    place.pull()
    finished = _find_finished(path, plan, variants, image_format)
    missing = tuple(name for name in variants if name not in finished)
    if missing:
        assembly.join(Parts(path, missing, image_format), finished)
    if not unfinished_variants(path):
        with writing():
            place.clear(Parts(path, (), image_format))
    return written


def _write_part(place: RootPlace, parts: Parts, own: Part, assembly: Assembly) -> None:
    """Begin, or go on, and write the shards of `own` that are not finished."""
    shards = own.shards(assembly.plan)
    with writing():
        parts.begin(assembly.plan.made_by, {shard.name for shard in shards})
    place.begun()
    place.lock.release_beginning()
    assembly.look(parts)
    assembly.write(parts, shards)
    if assembly.unfinished:
        place.pull()
        assembly.look(parts)  # again: others may have written them meanwhile


def _check_variants(variants: tuple[str, ...], image_format: str) -> tuple[str, ...]:
    """Return the variants, the largest first."""
    if image_format not in IMAGE_FORMATS:
        raise UsageError(f"there is no image format {image_format!r}", f"the formats are {' and '.join(IMAGE_FORMATS)}")
    for name in variants:
        if not is_variant_name(name):
            raise UsageError(f"{name!r} is no variant", "variants are full or a shorter side in pixels: full,320,160")
    if not variants or len(set(variants)) < len(variants):
        raise UsageError(f"the variants {','.join(variants)!r} name none, or one twice", "for example full,320,160")
    if image_format == "raw" and FULL in variants:
        raise UsageError(
            f"--format raw cannot be had for the variant {FULL}",
            f"prepare {FULL} as jpeg, then the small ones with --format raw into the same ROOT: --variants 160",
        )
    return tuple(sorted(variants, key=variant_size, reverse=True))


def _check_options(quality: int, max_rejected: float, rank: int, world_size: int) -> None:
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality} is not between 1 and 100", "90 is the default")
    if not 0 <= max_rejected <= 1:
        raise UsageError(f"--max-rejected {max_rejected} is not between 0 and 1", "0.01 allows one file in a hundred")
    if not 0 <= rank < world_size:
        raise RankError(f"there is no rank {rank} among {world_size}", "start the ranks with torchrun, or give --part")


def _check_urls(source: Place, root: Place) -> None:
    """Raise UsageError for a ROOT below the URL of the source. What lies under two names in a store is not noticed."""
    if isinstance(source, Url) and isinstance(root, Url) and f"{root}/".startswith(f"{source}/"):
        raise UsageError(f"ROOT {root} lies in the source {source}", "choose a ROOT outside of the source")


def _check_apart(source: Path, root: Path) -> None:
    inner, outer = root.resolve(), source.resolve()
    if inner == outer or outer in inner.parents:
        raise UsageError(f"ROOT {root} lies in the source {source}", "choose a ROOT outside of the source")


def _find_finished(root: Path, plan: ShardPlan, variants: tuple[str, ...], image_format: str) -> tuple[str, ...]:
    """Return the names of all finished variants in `root`, wanted or not: those that are made must agree with them.

    Raises UsageError if any has another plan or one of `variants` another format, DataError if it cannot be read.
    """
    with reading(root):
        folders = [entry for entry in root.iterdir() if is_variant_name(entry.name) and (entry / FILE_NAME).exists()]
    for folder in sorted(folders):
        manifest = Manifest.read(folder)
        if folder.name in variants and manifest.image_format != image_format:
            raise UsageError(
                f"{folder} is there already, as {manifest.image_format}, not {image_format}",
                f"leave {folder.name} out of --variants, or give --format {manifest.image_format}",
            )
        found = differences(manifest.made_by, plan.made_by)
        if found:
            raise UsageError(
                f"{root} was prepared with another plan ({'; '.join(found)})",
                "give the options and the source it was prepared with, or choose another ROOT",
            )
    return tuple(folder.name for folder in folders)


class _Counts(NamedTuple):
    """What a ROOT holds, as in `Summary`."""

    images: dict[str, int]
    rejected: dict[str, int]
    converted: dict[str, int]
    variants: dict[str, int]


def _count_finished(root: Path, variants: tuple[str, ...]) -> _Counts:
    """Count what is in a ROOT whose `variants` are finished. Raises RecordError if a shard is there no longer."""
    splits = {variant: Manifest.read(root / variant).splits for variant in variants}
    num_bytes = dict.fromkeys(variants, 0)
    for variant in variants:
        for shard in (shard for split in SPLITS for shard in splits[variant][split].shards):
            check_shard_size(root / variant / shard.name, shard.bytes)
            num_bytes[variant] += shard.bytes
    first = variants[0]
    images = {split: splits[first][split].num_records for split in SPLITS}
    return _Counts(images, count_rejected(root / first), count_converted(root / first), num_bytes)


def _count_parts(results: Sequence[ShardResult]) -> _Counts:
    """Count what is in the shards that are there."""
    images = Counter(dict.fromkeys(SPLITS, 0))
    rejected: Counter[str] = Counter()
    converted: Counter[str] = Counter()
    variants: Counter[str] = Counter()
    for result in results:
        images[result.split] += next(iter(result.variants.values())).num_records
        rejected.update(rejection_kind(row["reason"]) for row in result.rejected)
        converted.update({former: len(positions) for former, positions in result.converted.items()})
        variants.update({variant: info.bytes for variant, info in result.variants.items()})
    return _Counts(*map(dict, (images, rejected, converted, variants)))


def _summarise(
    root: Place,
    assembly: Assembly,
    counts: _Counts,
    written: tuple[str, ...],
    unfinished: Sequence[Shard],
    begun: float,
) -> Summary:
    missing = {split: _ranges([shard.number for shard in unfinished if shard.split == split]) for split in SPLITS}
    return Summary(
        root,
        len(assembly.plan.classes),
        *counts,
        written=written,
        missing=missing if unfinished else {},
        shards=assembly.plan.counts,
        cpu_seconds=assembly.cpu_seconds,
        seconds=time.monotonic() - begun,
        images_per_second=assembly.images_per_second,
    )


def _ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return ascending `numbers` as ranges (first, end), the end not included."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        first = found.pop()[0] if found and found[-1][1] == number else number
        found.append((first, number + 1))
    return tuple(found)
