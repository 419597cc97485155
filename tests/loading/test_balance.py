"""Balanced batches: each class equally often, of a class each sample, and a sample that comes again is not a copy."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imagesprint.errors import RecordError, UsageError
from imagesprint.loading import sampling
from imagesprint.loading.loader import Loader
from imagesprint.loading.sampling import BalancedSampler, BatchSpec
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.image_record import ImageRecord

WriteRoot = Callable[[Sequence[ImageRecord]], Path]
COUNTS = (1, 9, 0, 3, 24)  # images of each class: one has none
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5, dtype=np.int32), COUNTS))
SCHEDULE = Schedule(
    Recipe(
        "test",
        (
            Phase((0, 6), (0.1, 0.1), "constant", 16, 4, 24),  # 2 steps an epoch
            Phase((6, 18), (0.1, 0.1), "constant", 6, 3, 32),  # 6 steps an epoch
        ),
    ),
    num_train=37,
)
STEPS = range(SCHEDULE.total_steps)


def sampler(seed: int = 5) -> BalancedSampler:
    return BalancedSampler(SCHEDULE, seed, LABELS)


def visits() -> tuple[list[int], list[int]]:
    """Ids and passes of a whole training, in their order."""
    batches = [sampler().batch(step) for step in STEPS]
    return [i for batch in batches for i in batch.ids.tolist()], [p for batch in batches for p in batch.passes.tolist()]


def test_at_any_moment_classes_were_met_equally_often_and_so_were_the_samples_of_each() -> None:
    classes, samples = np.zeros(5, np.int64), np.zeros(37, np.int64)
    for sample_id in visits()[0]:
        classes[LABELS[sample_id]] += 1
        samples[sample_id] += 1
        assert np.ptp(classes[[0, 1, 3, 4]]) <= 1
        assert all(np.ptp(samples[label == LABELS]) <= 1 for label in (1, 3, 4))
    assert classes[2] == 0
    assert samples.min() > 2


def test_in_a_batch_classes_are_as_even_as_the_places_let_them() -> None:
    for step in STEPS:
        counts = np.bincount(LABELS[sampler().batch(step).ids], minlength=5)[[0, 1, 3, 4]]
        assert np.ptp(counts) <= (0 if SCHEDULE.phase(step).batch_size == 16 else 2)


def test_the_pass_of_a_sample_counts_its_visits() -> None:
    seen = np.zeros(37, np.int64)
    for sample_id, number in zip(*visits(), strict=True):
        assert number == seen[sample_id]
        seen[sample_id] += 1


def test_each_pass_through_a_class_and_each_round_has_an_order_of_its_own() -> None:
    ids = np.array(visits()[0])
    of_class = ids[LABELS[ids] == 1]
    assert len({of_class[start : start + 9].tobytes() for start in range(0, len(of_class) - 8, 9)}) > 8
    rounds = {LABELS[ids[start : start + 4]].tobytes() for start in range(0, len(ids), 4)}
    assert len(rounds) == 24  # all that there are


@pytest.mark.parametrize("drawn_together", [1, 64, 4096])
def test_neither_the_way_there_nor_what_is_drawn_together_matters(
    monkeypatch: pytest.MonkeyPatch, drawn_together: int
) -> None:
    expected = visits()[0]
    monkeypatch.setattr(sampling, "DRAWN_TOGETHER", drawn_together)
    backwards = sampler()
    batches = [backwards.batch(step).ids.tolist() for step in reversed(STEPS)]
    assert [i for batch in reversed(batches) for i in batch] == expected
    parts = [sampler().micro_batch(4, index).ids.tolist() for index in (3, 1, 0, 2)]
    assert [*parts[2], *parts[1], *parts[3], *parts[0]] == expected[64:80]
    assert sampler(6).batch(0).ids.tolist() != expected[:16]


def test_the_order_never_changes_unnoticed() -> None:
    digest = hashlib.sha256(np.array(visits(), "<i8").tobytes()).hexdigest()
    assert digest == "2e769b9b371be9a40e92feeda1befcbbbeb79ee274f96b03dea94072c5a51c30"


@pytest.fixture
def records(train_records: list[ImageRecord]) -> list[ImageRecord]:
    """Sixteen images, three of them of the second class."""
    return [replace(record, label=int(i in (2, 7, 11))) for i, record in enumerate(train_records)]


SPEC = BatchSpec(16, 16, epochs=3, micro_batch=4, seed=3, bad_records="substitute", draws=((16, 2),), balance=True)
Rows = list[tuple[int, int, int, bytes, bytes]]  # of a sample: step, id, label, pixels, draws


def rows(root: Path, spec: BatchSpec = SPEC, world_size: int = 1, start_step: int = 0, threads: int = 2) -> Rows:
    found: Rows = []
    loaders = [Loader(root, spec, rank, world_size, start_step, threads=threads) for rank in range(world_size)]
    for together in zip(*loaders, strict=True):
        for batch in together:
            columns = zip(batch.sample_ids.tolist(), batch.labels.tolist(), batch.images, batch.draws, strict=True)
            found += [(batch.step, i, of, x.numpy().tobytes(), d.numpy().tobytes()) for i, of, x, d in columns]
    return found


def test_one_stream_for_any_ranks_threads_and_start_in_which_no_two_images_are_the_same(
    write_root: WriteRoot, records: list[ImageRecord]
) -> None:
    root = write_root(records)
    whole = rows(root)
    for step in range(3):
        labels = [label for at, _, label, *_ in whole if at == step]
        assert (labels.count(0), labels.count(1)) == (8, 8)
    assert all(label == (i in (2, 7, 11)) for _, i, label, *_ in whole)
    assert len({pixels for *_, pixels, _ in whole}) == len({draws for *_, draws in whole}) == len(whole) == 48
    assert rows(root, world_size=2) == rows(root, world_size=4, threads=1) == whole
    assert rows(root, world_size=2, start_step=1) == whole[16:]
    plain = rows(root, replace(SPEC, balance=False))
    assert plain[:16] != whole[:16]
    with pytest.raises(UsageError, match="2 specs, of which some balance"):
        Loader(root, [SPEC, replace(SPEC, balance=False)])


def test_what_stands_in_for_a_bad_record_is_of_its_class(write_root: WriteRoot, records: list[ImageRecord]) -> None:
    records[7] = replace(records[7], encoded=b"<html>")
    root = write_root(records)
    found = rows(root)
    assert [label for _, _, label, *_ in found].count(1) == 24
    assert {i for _, i, label, *_ in found if label} == {2, 11}
    assert rows(root, world_size=2, start_step=2) == found[32:]


def test_a_class_without_a_sound_record_stops(write_root: WriteRoot, records: list[ImageRecord]) -> None:
    alone = [replace(record, label=int(i == 5)) for i, record in enumerate(records)]
    alone[5] = replace(alone[5], encoded=b"<html>")
    with pytest.raises(RecordError, match=r"image5\.jpg: .*; nothing may stand in for it"):
        rows(write_root(alone))
