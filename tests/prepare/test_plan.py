import hashlib
import itertools
from dataclasses import replace
from typing import Any

import pytest

from imagesprint.errors import UsageError
from imagesprint.prepare.plan import MadeBy, Part, Shard, ShardPlan, differences, make_plan, parse_part, share
from imagesprint.prepare.sources.source import Listing, SourceImage
from imagesprint.records.manifest import ClassInfo

CLASSES = tuple(ClassInfo(name, name, name) for name in ("a", "b", "c"))


def make_samples(counts: tuple[int, ...], num_bytes: int = 1000, prefix: str = "train") -> list[SourceImage]:
    return [
        SourceImage(f"{prefix}/{label}/{i}.jpg", label, num_bytes)
        for label, count in enumerate(counts)
        for i in range(count)
    ]


LISTING = Listing(
    CLASSES, {"train": make_samples((50, 30, 20)), "validation": make_samples((5, 5, 5), prefix="validation")}
)


def plan(listing: Listing = LISTING, **options: Any) -> ShardPlan:
    defaults: dict[str, Any] = {"shards": None, "quality": 90, "val_fraction": None, "seed": 0}
    return make_plan(listing, "class-folders", **{**defaults, **options})


def locations(of: ShardPlan, split: str) -> list[str]:
    return [sample.location for shard in of.shards if shard.split == split for sample in shard.samples]


def test_every_sample_is_in_one_shard() -> None:
    for shards in (1, 3, 7, 100):
        found = plan(shards=shards)
        for split in ("train", "validation"):
            assert sorted(locations(found, split)) == sorted(sample.location for sample in LISTING.splits[split])
        sizes = [len(shard.samples) for shard in found.shards if shard.split == "train"]
        assert len(sizes) == shards
        assert max(sizes) - min(sizes) <= 1


def test_shards_are_named_as_the_inception_guide_has_it() -> None:
    assert [shard.name for shard in plan(shards=7).shards] == [
        *(f"train-0000{i}-of-00007" for i in range(7)),
        "validation-00000-of-00001",
    ]


def test_order_depends_on_the_seed_and_not_on_the_listing() -> None:
    backwards = Listing(CLASSES, {split: samples[::-1] for split, samples in LISTING.splits.items()})
    assert plan() == plan(backwards)
    assert locations(plan(), "train") != locations(plan(seed=1), "train")
    labels = [sample.label for sample in plan().shards[0].samples]
    assert sum(a != b for a, b in itertools.pairwise(labels)) > 30  # classes lie spread


def test_shards_by_size() -> None:
    samples = {"train": make_samples((4, 4, 4), 100_000_000), "validation": make_samples((1, 1, 0), 1)}
    counts = plan(Listing(CLASSES, samples)).made_by
    assert (counts["train_shards"], counts["validation_shards"]) == (9, 1)
    for shards in (0, 101, -1):
        with pytest.raises(UsageError, match=f"--shards {shards} for 100 training images"):
            plan(shards=shards)


def test_imagenet_has_1024_and_128_shards() -> None:
    one = SourceImage("x", 0, 110_000)
    found = plan(Listing(CLASSES[:1], {"train": [one] * 1_281_167, "validation": [one] * 50_000}))
    assert (found.made_by["train_shards"], found.made_by["validation_shards"]) == (1024, 128)


def test_val_fraction_is_taken_of_each_class() -> None:
    listing = Listing(CLASSES, {"train": make_samples((50, 3, 1))})
    found = plan(listing, val_fraction=0.1)
    assert sorted(location.split("/")[1] for location in locations(found, "validation")) == ["0"] * 5 + ["1"]
    assert len(locations(found, "train")) == 48
    assert not set(locations(found, "train")) & set(locations(found, "validation"))
    assert found.notes == ("1 of 3 classes have no validation images: c",)
    assert locations(found, "validation") != locations(plan(listing, val_fraction=0.1, seed=3), "validation")
    nearly_all = plan(listing, val_fraction=0.999)
    assert {location.split("/")[1] for location in locations(nearly_all, "train")} == {"0", "1", "2"}


def test_a_val_fraction_that_is_not_needed_is_said_and_changes_nothing() -> None:
    found = plan(val_fraction=0.1)
    assert found.notes == ("--val-fraction 0.1 is not used: the source has a validation split of its own",)
    assert (found.shards, found.made_by) == (plan().shards, plan().made_by)


def test_val_fraction_missing_or_impossible() -> None:
    without = Listing(CLASSES, {"train": make_samples((5, 5, 5))})
    with pytest.raises(UsageError, match="no validation split") as caught:
        plan(without)
    assert "--val-fraction 0.1" in caught.value.hint
    for fraction in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            plan(without, val_fraction=fraction)
    with pytest.raises(UsageError, match="no class has two images"):
        plan(Listing(CLASSES, {"train": make_samples((1, 1, 1))}), val_fraction=0.5)


def test_differences_between_plans_are_named() -> None:
    made_by = plan().made_by
    assert differences(made_by, plan().made_by) == []
    assert differences(made_by, plan(quality=80, seed=2).made_by) == ["quality: 90 then, 80 now", "seed: 0 then, 2 now"]
    fewer = Listing(CLASSES, {**LISTING.splits, "train": make_samples((50, 30, 19))})
    assert differences(made_by, plan(fewer).made_by) == ["source train_files: 100 then, 99 now"]
    resized = Listing(CLASSES, {**LISTING.splits, "train": make_samples((50, 30, 20), 999)})
    assert differences(made_by, plan(resized).made_by) == ["source: other file names, sizes or classes"]


def test_samples_of_a_block_stay_together_as_they_lie() -> None:
    in_blocks = [SourceImage(f"row {row}/x.jpg", row % 3, 9, offset=row, block=row // 10) for row in range(60)]
    singles = [SourceImage(f"{i}/x.jpg", i % 3, 9) for i in range(6)]
    listing = Listing(CLASSES, {"train": in_blocks[::-1] + singles, "validation": make_samples((1, 1, 1))})

    def runs(seed: int) -> list[tuple[int, list[SourceImage]]]:
        shards = [shard for shard in plan(listing, shards=4, seed=seed).shards if shard.split == "train"]
        samples = [sample for shard in shards for sample in shard.samples]
        return [(block, list(run)) for block, run in itertools.groupby(samples, lambda sample: sample.block)]

    blocks = [(block, run) for block, run in runs(seed=0) if block >= 0]
    assert sorted(blocks, key=lambda item: item[0]) == [
        (block, in_blocks[10 * block : 10 * block + 10]) for block in range(6)
    ]
    assert {sample.location for block, run in runs(seed=0) if block < 0 for sample in run} == {
        sample.location for sample in singles
    }
    assert [block for block, _ in blocks] not in (list(range(6)), [block for block, _ in runs(seed=1) if block >= 0])


def test_plans_without_blocks_never_change_unnoticed() -> None:
    """A ROOT that is half prepared goes on with the next version."""
    made = plan(shards=4)
    assert made.made_by["source"]["sha256"].startswith("701c03187069")
    names = "".join(locations(made, "train") + locations(made, "validation"))
    assert hashlib.sha256(names.encode()).hexdigest().startswith("a5480dd56f6b")


@pytest.mark.parametrize("cuts", [(0, 7), (0, 1, 7), (0, 2, 3, 4, 5, 6, 7), (0, 5, 7)])
@pytest.mark.parametrize("validation", [1, 2, 7, 15])
def test_any_parts_cover_every_shard_once(cuts: tuple[int, ...], validation: int) -> None:
    listing = Listing(CLASSES, {"train": make_samples((5, 4, 5)), "validation": make_samples((10, 10, 10))})
    found = plan(listing, shards=7)
    made_by: MadeBy = {**found.made_by, "train_shards": 7, "validation_shards": validation}
    counts = {"train_shards": 7, "validation_shards": validation}
    found = replace(found, made_by=made_by, shards=tuple(empty_shards(counts)))
    parts = [Part(first, end).shards(found) for first, end in itertools.pairwise(cuts)]
    names = [shard.name for part in parts for shard in part]
    assert sorted(names) == sorted(shard.name for shard in found.shards)
    for part, (first, end) in zip(parts, itertools.pairwise(cuts), strict=True):
        assert [shard.number for shard in part if shard.split == "train"] == list(range(first, end))


def empty_shards(counts: dict[str, int]) -> list[Shard]:
    return [
        Shard(split, number, f"{split}-{number}", ())
        for split in ("train", "validation")
        for number in range(counts[f"{split}_shards"])
    ]


def test_shares_of_ranks_cover_everything() -> None:
    found = plan(shards=5)
    for world_size in (1, 2, 3, 5, 8):
        shares = [share(found, rank, world_size) for rank in range(world_size)]
        assert [number for part in shares for number in range(part.first, part.end)] == list(range(5))


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "3:3", "4:2", "-1:2", "0:8", "a:b", "0:1:2", "0.5:2", "²:3"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no part of the 7 train shards") as caught:
        parse_part(text, plan(shards=7))
    assert "within 0:7" in caught.value.hint


def test_a_part_that_is_one() -> None:
    assert parse_part("2:7", plan(shards=7)) == Part(2, 7)
