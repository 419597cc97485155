"""What goes where: which images form which split, in which order, cut into which shards.

A plan depends on the source's listing and the options alone, so that any number of workers, and a run that goes on
where another stopped, write the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from imagesprint.errors import UsageError
from imagesprint.images.draws import permutation
from imagesprint.prepare.names import some
from imagesprint.prepare.sources.source import Listing, SourceImage
from imagesprint.records.manifest import SPLITS, ClassInfo

SHARD_BYTES = 128e6  # of source files, where no number of shards is given
# The Inception guide's shards for ImageNet's 1,281,167 and 50,000 images.
_IMAGENET_IMAGES = {"train": 1_281_167, "validation": 50_000}
_IMAGENET_SHARDS = {"train": 1024, "validation": 128}

# "Epochs" of the permutation, from the far end: no epoch of a training with the same seed draws the same one.
_ORDER = {"train": 2**32 - 1, "validation": 2**32 - 2}
_SPLITTING = 2**32 - 3


@dataclass(frozen=True)
class Shard:
    """One shard to be: its file name and its images, in order."""

    split: str
    number: int
    name: str
    samples: tuple[SourceImage, ...]


class SourceFacts(TypedDict):
    """Which source it is; `sha256` is of all that the listing says."""

    kind: str
    train_files: int
    validation_files: int
    sha256: str


class MadeBy(TypedDict):
    """What the shards depend on, in plain types for dataset.json; equal ones give equal bytes."""

    source: SourceFacts
    train_shards: int
    validation_shards: int
    quality: int
    val_fraction: float | None
    seed: int


@dataclass(frozen=True)
class ShardPlan:
    """All shards of a source, and what they depend on."""

    classes: tuple[ClassInfo, ...]
    shards: tuple[Shard, ...]
    made_by: MadeBy
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The shards of each split."""
        return {"train": self.made_by["train_shards"], "validation": self.made_by["validation_shards"]}

    def train_shard_of(self, shard: Shard) -> int:
        """Return the number of a train shard; of a validation shard that of the train shard it is prepared with."""
        return shard.number * self.counts["train"] // self.counts[shard.split]


def make_plan(
    listing: Listing, kind: str, shards: int | None, quality: int, val_fraction: float | None, seed: int
) -> ShardPlan:
    """Return the plan for a source of that `kind`.

    `shards` is the number of train shards (validation gets as many in proportion); None chooses by size.
    Raises UsageError where --val-fraction is missing or impossible, or for more shards than images.
    """
    splits = {
        split: sorted(samples, key=lambda sample: (sample.label, sample.name, sample.location))
        for split, samples in listing.splits.items()
    }
    digest = _digest(listing.classes, splits)
    notes: tuple[str, ...] = ()
    if "validation" not in splits:
        splits = _split_off(splits["train"], val_fraction, seed, listing.offer)
    else:
        unused = f"--val-fraction {val_fraction} is not used: the source has a validation split of its own"
        notes = () if val_fraction is None else (unused,)
        val_fraction = None
    counts = _shard_counts(splits, shards)
    made_by: MadeBy = {
        "source": {
            "kind": kind,
            "train_files": len(splits["train"]),
            "validation_files": len(splits["validation"]),
            "sha256": digest,
        },
        "train_shards": counts["train"],
        "validation_shards": counts["validation"],
        "quality": quality,
        "val_fraction": val_fraction,
        "seed": seed,
    }
    planned = tuple(shard for split in SPLITS for shard in _cut(split, splits[split], counts[split], seed))
    present = {sample.label for sample in splits["validation"]}
    missing = [entry.name for label, entry in enumerate(listing.classes) if label not in present]
    return ShardPlan(listing.classes, planned, made_by, notes + without_validation(missing, len(listing.classes)))


@dataclass(frozen=True)
class Part:
    """Train shards `first` up to `end` of a plan, with the validation shards that belong to them."""

    first: int
    end: int

    def shards(self, plan: ShardPlan) -> tuple[Shard, ...]:
        """Return the part's shards of `plan`. Validation shard v of V belongs to train shard v · T // V of T."""
        numbers = range(self.first, self.end)
        return tuple(shard for shard in plan.shards if plan.train_shard_of(shard) in numbers)


def parse_part(text: str, plan: ShardPlan) -> Part:
    """Return the part that "A:B" names: train shards A up to B, not including it. Raises UsageError."""
    total = plan.counts["train"]
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end) <= total):
        raise UsageError(
            f"--part {text} is no part of the {total} train shards",
            f"--part A:B prepares shards A up to B, not including it, within 0:{total}",
        )
    return Part(int(first), int(end))


def share(plan: ShardPlan, rank: int, world_size: int) -> Part:
    """Return the part of rank `rank` among `world_size`; together they are the whole, some may be empty."""
    total = plan.counts["train"]
    return Part(rank * total // world_size, (rank + 1) * total // world_size)


def differences(made_by: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return what differs between two plans, "NAME: VALUE then, VALUE now" each."""
    found = []
    for key in dict.fromkeys((*made_by, *now)):
        then_value, now_value = made_by.get(key), now.get(key)
        if then_value == now_value:
            continue
        if isinstance(then_value, Mapping) and isinstance(now_value, Mapping):
            inner = differences(then_value, now_value)
            # The digest changes with any file: it is named only where nothing else tells.
            found += [f"{key} {text}" for text in inner if not text.startswith("sha256")] or [
                f"{key}: other file names, sizes or classes"
            ]
        else:
            found.append(f"{key}: {then_value} then, {now_value} now")
    return found


def _digest(classes: tuple[ClassInfo, ...], splits: Mapping[str, list[SourceImage]]) -> str:
    digest = hashlib.sha256(repr(classes).encode())
    for split, samples in splits.items():
        for sample in samples:
            digest.update(repr((split, sample.location, sample.label, sample.num_bytes, sample.boxes)).encode())
            if sample.block >= 0:  # it decides the order
                digest.update(repr((sample.block, sample.offset)).encode())
    return digest.hexdigest()


def _split_off(
    samples: list[SourceImage], fraction: float | None, seed: int, offer: str
) -> dict[str, list[SourceImage]]:
    """Return train and validation: of each class of n ≥ 2 images, round(n · fraction) go to validation, at least one.

    At least one also stays in train.
    """
    if fraction is None:
        raise UsageError(
            "the source has training images but no validation split",
            "--val-fraction 0.1 sets a tenth of every class apart; or "
            + (offer or "add one to the source (to class folders as SOURCE/val/CLASS/*.jpg)"),
        )
    if not 0 < fraction < 1:
        raise UsageError(f"--val-fraction {fraction} is not between 0 and 1", "--val-fraction 0.1 is a tenth")
    left: dict[int, int] = {}  # images of each class still to be set apart
    for label, n in zip(*np.unique([sample.label for sample in samples], return_counts=True), strict=True):
        left[int(label)] = min(max(1, round(int(n) * fraction)), int(n) - 1)
    chosen = np.zeros(len(samples), bool)
    for i in permutation(len(samples), seed, _SPLITTING).tolist():
        if left[samples[i].label] > 0:
            left[samples[i].label] -= 1
            chosen[i] = True
    if not chosen.any():
        raise UsageError("no class has two images, so none can be set apart", "give images to SOURCE/val/CLASS")
    return {
        "train": [sample for sample, apart in zip(samples, chosen, strict=True) if not apart],
        "validation": [sample for sample, apart in zip(samples, chosen, strict=True) if apart],
    }


def _shard_counts(splits: Mapping[str, list[SourceImage]], shards: int | None) -> dict[str, int]:
    sizes = {split: len(samples) for split, samples in splits.items()}
    if shards is not None:
        if not 1 <= shards <= sizes["train"]:
            raise UsageError(
                f"--shards {shards} for {sizes['train']} training images", "give at least 1 and at most one an image"
            )
        return {"train": shards, "validation": max(1, round(shards * sizes["validation"] / sizes["train"]))}
    if sizes == _IMAGENET_IMAGES:
        return _IMAGENET_SHARDS
    num_bytes = {split: sum(sample.num_bytes for sample in samples) for split, samples in splits.items()}
    return {split: min(sizes[split], max(1, round(num_bytes[split] / SHARD_BYTES))) for split in SPLITS}


def _cut(split: str, samples: list[SourceImage], count: int, seed: int) -> list[Shard]:
    order = _shuffle(samples, seed, _ORDER[split])
    bounds = [i * len(order) // count for i in range(count + 1)]
    return [
        Shard(split, i, f"{split}-{i:05d}-of-{count:05d}", tuple(order[bounds[i] : bounds[i + 1]]))
        for i in range(count)
    ]


def _shuffle(samples: list[SourceImage], seed: int, epoch: int) -> list[SourceImage]:
    """Return the samples in random order; those of a block stay together, as they lie in the source."""
    blocks: dict[int, list[SourceImage]] = {}
    firsts = []  # the position of every sample without a block, and of each block's first
    for position, sample in enumerate(samples):
        if sample.block < 0 or sample.block not in blocks:
            firsts.append(position)
        if sample.block >= 0:
            blocks.setdefault(sample.block, []).append(sample)
    order = []
    for i in permutation(len(firsts), seed, epoch).tolist():
        first = samples[firsts[i]]
        order += sorted(blocks[first.block], key=lambda sample: sample.offset) if first.block >= 0 else [first]
    return order


def without_validation(missing: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return the warning that the classes named in `missing` have no validation images; none where none is missing."""
    if not missing:
        return ()
    return (f"{len(missing)} of {num_classes} classes have no validation images: {some(missing, most=5)}",)
