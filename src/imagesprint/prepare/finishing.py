"""The end of `prepare`: joining the parts of each variant; dataset.json comes last and makes it whole."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from imagesprint.errors import DataError
from imagesprint.files import read_rows, write_rows
from imagesprint.prepare.parts import Parts, ShardResult
from imagesprint.prepare.plan import Plan, without_validation
from imagesprint.records.index import Index
from imagesprint.records.manifest import FIRST_LABEL, SPLITS, Manifest, write_split

_REJECTED = "rejected.jsonl"
_CONVERTED = "converted.jsonl"


def check_rejected(root: Path, plan: Plan, results: list[ShardResult], finished: tuple[str, ...]) -> tuple[str, ...]:
    """Check that every split and class still has images and that variants finished earlier rejected the same files.

    Returns warnings: of classes that have lost all images of validation. Raises DataError where a split, or a class its
    training images, or where sample ids would not mean the same image in all variants.
    """
    rejected = _rejected(results)
    for split in SPLITS:
        files = sum(len(shard.samples) for shard in plan.shards if shard.split == split)
        if files == sum(row["split"] == split for row in rejected):
            raise DataError(f"all {files} files of {split} are rejected", f"the first: {rejected[0]['reason']}")
    lost = _lost_classes(plan, "train", rejected)
    if lost:
        raise DataError(
            f"every training image of class {lost[0]!r} is rejected"
            + (f", and of {len(lost) - 1} classes more" if len(lost) > 1 else ""),
            "give it images that can be decoded, or remove its folder; then prepare into another ROOT",
        )
    for variant in finished:
        before = {row["file"] for row in read_rows(root / variant / _REJECTED)}
        changed = sorted(before ^ {row["file"] for row in rejected})
        if changed:
            raise DataError(
                f"{changed[0]} was {'rejected' if changed[0] in before else 'accepted'} when {root / variant} was "
                "prepared, and now is not",
                "the file has changed, or Pillow has: prepare all variants anew into another ROOT",
            )
    return without_validation(_lost_classes(plan, "validation", rejected), len(plan.classes))


def _lost_classes(plan: Plan, split: str, rejected: list[dict[str, str]]) -> list[str]:
    """Return the names of the classes that have files in `split`, all of them rejected."""
    files = {row["file"] for row in rejected if row["split"] == split}
    samples = [sample for shard in plan.shards if shard.split == split for sample in shard.samples]
    left = Counter(sample.label for sample in samples if sample.location not in files)
    return [plan.classes[label].name for label in sorted({sample.label for sample in samples}) if not left[label]]


def finish_variant(parts: Parts, variant: str, plan: Plan, results: list[ShardResult]) -> None:
    """Write the indexes, rejected.jsonl, converted.jsonl and, last, dataset.json of a variant. Raises FileError."""
    folder = parts.root / variant
    splits = {}
    for split in SPLITS:
        shards = tuple(result.variants[variant] for result in results if result.split == split)
        index = Index.concatenate([Index.read(parts.index_path(variant, shard.name)) for shard in shards])
        splits[split] = write_split(folder, split, index, shards)
    write_rows(folder / _REJECTED, _rejected(results))
    write_rows(folder / _CONVERTED, list(_converted(plan, results)))
    Manifest(variant, parts.image_format, FIRST_LABEL, plan.classes, splits, plan.made_by).write(folder)


def _rejected(results: list[ShardResult]) -> list[dict[str, str]]:
    return [row for result in results for row in result.rejected]


def _converted(plan: Plan, results: list[ShardResult]) -> Iterator[dict[str, str]]:
    for shard, result in zip(plan.shards, results, strict=True):
        former = {position: kind for kind, positions in result.converted.items() for position in positions}
        for position in sorted(former):
            yield {"split": shard.split, "file": shard.samples[position].location, "was": former[position]}


def rejection_kind(reason: str) -> str:
    """Return what kind of reason it is: the words before its colon."""
    return reason.partition(":")[0]


def count_rejected(folder: Path) -> dict[str, int]:
    """Return how many files were rejected in a variant, by the kind of reason."""
    return _count(rejection_kind(row["reason"]) for row in read_rows(folder / _REJECTED))


def count_converted(folder: Path) -> dict[str, int]:
    """Return how many files were no JPEG in RGB or grey, by what they were."""
    return _count(row["was"] for row in read_rows(folder / _CONVERTED))


def _count(kinds: Iterable[str]) -> dict[str, int]:
    return dict(Counter(kinds).most_common())
