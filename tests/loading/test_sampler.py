import numpy as np
import pytest

from imagesprint.images.draws import permutation
from imagesprint.loading.sampling import ShuffledSampler
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule

NUM_TRAIN = 37
PHASES = (
    Phase((0, 2), (0.1, 0.1), "constant", 16, 4, 24),  # 2 steps an epoch, 5 images left over
    Phase((2, 3), (0.1, 0.1), "constant", 6, 3, 32),  # 6 steps, 1 left over
)
SCHEDULE = Schedule(Recipe("test", PHASES, seed=5), NUM_TRAIN)


def test_micro_batches_are_slices_of_the_epochs_permutation() -> None:
    sampler = ShuffledSampler(SCHEDULE, 5)
    for step, epoch, batch, index, micro, size in [
        (0, 0, 0, 0, 4, 16),
        (1, 0, 1, 3, 4, 16),
        (2, 1, 0, 1, 4, 16),
        (9, 2, 5, 1, 3, 6),
    ]:
        start = batch * size + index * micro
        ids, passes = sampler.micro_batch(step, index)
        assert ids.dtype == passes.dtype == np.int64
        assert set(passes.tolist()) == {epoch}
        np.testing.assert_array_equal(ids, permutation(NUM_TRAIN, 5, epoch)[start : start + micro])


def test_an_epoch_holds_each_sample_at_most_once() -> None:
    sampler = ShuffledSampler(SCHEDULE, 5)
    epoch = np.concatenate([sampler.micro_batch(step, index).ids for step in (2, 3) for index in range(4)])
    assert len(epoch) == len(set(epoch.tolist())) == 32


def test_the_way_there_does_not_matter() -> None:
    forwards, backwards = ShuffledSampler(SCHEDULE, 5), ShuffledSampler(SCHEDULE, 5)
    steps = range(SCHEDULE.total_steps)
    there = [forwards.micro_batch(step, 1).ids.tolist() for step in steps]
    back = [backwards.micro_batch(step, 1).ids.tolist() for step in reversed(steps)]
    assert there == back[::-1]
    assert there != [ShuffledSampler(SCHEDULE, 6).micro_batch(step, 1).ids.tolist() for step in steps]


@pytest.mark.parametrize(("step", "index"), [(0, 4), (0, -1), (9, 2), (10, 0), (-1, 0)])
def test_what_does_not_exist(step: int, index: int) -> None:
    with pytest.raises(IndexError):
        ShuffledSampler(SCHEDULE, 5).micro_batch(step, index)
