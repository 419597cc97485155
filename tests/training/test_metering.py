import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.errors import RunError
from imagesprint.images.draws import permutation
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.loading.sampling import ShuffledSampler
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.runs.ranks import Ranks
from imagesprint.training.metering import EXPLODED, Cadence, LossGuard, Meter, StageTimes, is_out_of_patience
from imagesprint.training.optimizer import l2_loss
from imagesprint.training.prefetch import on_device
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep

RECIPE = Recipe(
    name="test",
    phases=(
        Phase((0, 3), (0.1, 0.1), "constant", 8, 8, 16),
        Phase((3, 5), (0.1, 0.1), "constant", 16, 8, 16),
    ),
)
SCHEDULE = Schedule(RECIPE, num_train=104)  # 13 steps an epoch, then 6: epochs end at 13, 26, 39, 45, 51


def steps(when: object) -> list[int]:
    return [step for step in range(1, 52) if when(step)]  # type: ignore[operator]


@pytest.mark.parametrize(("every", "expected"), [(1, [13, 26, 39, 45, 51]), (2, [26, 45, 51]), (0, [51])])
def test_evaluation(every: int, expected: list[int]) -> None:
    assert steps(Cadence(SCHEDULE, every, None, 51).evaluate) == expected


def test_checkpoints() -> None:
    assert steps(Cadence(SCHEDULE, 1, None, 51).checkpoint) == [13, 26, 39, 45, 51]
    assert steps(Cadence(SCHEDULE, 1, 20, 51).checkpoint) == [20, 40, 51]
    assert [step for step in range(1, 31) if Cadence(SCHEDULE, 1, 20, 30).checkpoint(step)] == [20, 30]
    assert steps(Cadence(SCHEDULE, 2, 20, 51, patience=3).checkpoint) == [20, 26, 40, 45, 51]


@pytest.mark.parametrize("start", [0, 13, 20, 51])
@pytest.mark.parametrize("until", [51, 39, 30])
@pytest.mark.parametrize(
    ("eval_every", "checkpoint_every", "patience"), [(1, None, 0), (2, 20, 0), (0, 13, 0), (2, 20, 1)]
)
def test_lists_hold_the_steps_at_which_it_is_due(
    start: int, until: int, eval_every: int, checkpoint_every: int | None, patience: int
) -> None:
    cadence = Cadence(SCHEDULE, eval_every, checkpoint_every, until, patience)
    ahead = range(start + 1, until + 1)
    assert cadence.evaluations(start) == [step for step in ahead if cadence.evaluate(step)]
    assert cadence.checkpoints(start) == [step for step in ahead if cadence.checkpoint(step)]


def test_patience_ends_with_so_many_evaluations_that_brought_nothing_better() -> None:
    top1 = [10.0, 30.0, 20.0, 30.0, 30.5, 30.5, 9.0, 30.5]
    ends = {
        patience: [n for n in range(len(top1) + 1) if is_out_of_patience(top1[:n], patience)]
        for patience in (0, 1, 2, 3, 4, 7)
    }
    assert ends == {0: [], 1: [3, 4, 6, 7, 8], 2: [4, 7, 8], 3: [8], 4: [], 7: []}


def test_logged_windows_end_wherever_something_happens() -> None:
    logged = steps(Cadence(SCHEDULE, 0, 7, 51).log)
    assert logged == sorted({*range(7, 52, 7), *range(10, 52, 10), 39, 51})


def test_phases_in_steps() -> None:
    phases = (replace(RECIPE.phases[0], epochs=None, steps=(0, 20)),)
    schedule = Schedule(replace(RECIPE, phases=phases), num_train=104)
    cadence = Cadence(schedule, 1, None, 20)
    assert [step for step in range(1, 21) if cadence.evaluate(step)] == [13, 20]


ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))


def with_nan(batches: Iterator[Batch], step: int, seen: list[int]) -> Iterator[Batch]:
    """Put a NaN into one pixel of the first batch of `step`; `seen` gets the sample ids of that step."""
    for batch in batches:
        if batch.step != step:
            yield batch
            continue
        seen += batch.sample_ids.tolist()
        images = batch.images.double()
        images[0, 0, 0, 0] = float("nan")
        yield replace(batch, images=images)


def test_a_nan_in_one_batch_is_reported_with_its_step_and_samples(photo_root: Path, tiny_recipe: Recipe) -> None:
    state, seen = TrainingState(tiny_recipe, open_root(photo_root).classes, ALONE.device), list[int]()
    with Loader(photo_root, tiny_recipe, threads=1, end_step=8) as loader:
        step, schedule = (
            TrainingStep(state, ALONE),
            Schedule(tiny_recipe, len(open_dataset(photo_root, "full", "train"))),
        )
        batches = on_device(with_nan(iter(loader), 5, seen), ALONE.device)
        meter = Meter(tiny_recipe, schedule, loader, ALONE, StageTimes(loader, batches, step, ALONE))
        for number in range(8):
            sums = step(batches, schedule.phase(number), schedule.lr(number))
            meter.add(sums, state.sums.gradients)
        with pytest.raises(RunError) as caught:
            meter.row(8, l2_loss(state.optimizer))
    assert len(seen) == 16
    listed = ", ".join(map(str, seen))
    lr = schedule.lr(5)
    assert caught.value.what == f"the loss is nan at step 6, learning rate {lr:.5g}, 16 samples with ids {listed}"
    assert "imagesprint inspect ROOT --run RUN --step 6" in caught.value.hint


def test_what_is_too_large_or_infinite(tiny_recipe: Recipe) -> None:
    schedule = Schedule(tiny_recipe, 70)
    guard = LossGuard(schedule, ShuffledSampler(schedule, 0))
    guard.check(10, [1.0, EXPLODED], 5.0)
    with pytest.raises(RunError, match=r"the loss is 1001 at step 9,"):
        guard.check(10, [1001.0, 1.0], 5.0)
    with pytest.raises(RunError, match=r"weights are not finite any more \(their L2 loss is inf\) at step 10,"):
        guard.check(10, [1.0, 1.0], float("inf"))


def test_overflows_of_fp16_are_counted(photo_root: Path, tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, precision="fp16")
    with Loader(photo_root, recipe, threads=1, end_step=3) as loader:
        step = TrainingStep(TrainingState(tiny_recipe, ("china", "flower"), ALONE.device), ALONE)
        stages = StageTimes(loader, on_device(iter(loader), ALONE.device), step, ALONE)
        schedule = Schedule(recipe, len(open_dataset(photo_root, "full", "train")))
        meter = Meter(recipe, schedule, loader, ALONE, stages)
        sums = torch.tensor([16.0, 4, 4, 16])
        for gradient in (1.0, float("inf"), float("nan")):
            meter.add(sums, [torch.ones(3), torch.tensor([gradient, 0])])
        assert meter.row(3, torch.zeros(())).overflows == 2


Run = Callable[..., Any]
# The tiny recipe takes 64 of 70 images an epoch: four epochs from each variant. Each place that asks for the bad one
# counts, at times a place of the six that are left out does.
BAD = 11


@pytest.fixture(scope="module")
def root(photo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose record 11 is bad in the variant 32, the one that is trained on at first."""
    root = Path(shutil.copytree(photo_root, tmp_path_factory.mktemp("bad-records") / "root"))
    places = open_dataset(root, "32", "train").places(np.array([BAD]))
    shard = Path(str(places.path(0)))
    content = bytearray(shard.read_bytes())
    content[int(places.offsets[0] + places.lengths[0] // 2)] ^= 1
    shard.write_bytes(content)
    return root


def occurrences(seed: int, steps: int) -> int:
    """How often the sample is among those of the first `steps` steps; the last four epochs read the sound variant."""
    return sum(
        BAD in permutation(70, seed, epoch)[: 16 * min(4, steps - 4 * epoch)].tolist()
        for epoch in range(min(4, -(-steps // 4)))
    )


def final(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(sorted((run / "checkpoints").glob("*.pt"))[-1], weights_only=True)
    return content


def test_a_run_that_was_stopped_goes_on_with_substitutes_and_counts_them_once(
    imagesprint: Run, root: Path, tiny: Path, tmp_path: Path
) -> None:
    seed = 0
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ("train", tiny, "--data", root, "--json", "--checkpoint-every", 1)
    stopped = imagesprint(*words, "--output", run)
    assert stopped.code == 1, stopped.stdout
    assert "32/train-" in stopped.json["error"]
    assert "--set bad_records=substitute" in stopped.json["hint"]
    assert list((run / "checkpoints").iterdir()), "no step came before the bad record: choose another one"

    substituting = (*words, "--set", "bad_records=substitute")
    first = imagesprint(*substituting, "--output", run, "--stop-after", 9)
    assert first.code == 0, first.stderr
    assert "resumed after step" in first.stderr
    assert first.json["bad_records"] == occurrences(seed, 9) > 0
    resumed = imagesprint(*substituting, "--output", run, "--stop-after", 14)
    assert resumed.code == 0, resumed.stderr
    expected = occurrences(seed, 14)
    assert resumed.json["bad_records"] == expected > first.json["bad_records"]
    assert final(run)["bad_records"] == expected

    at_once = imagesprint(*substituting, "--output", whole, "--stop-after", 14, "--processes", 2)
    assert at_once.code == 0, at_once.stderr
    assert at_once.json["bad_records"] == expected
    log = (whole / "log.txt").read_text()
    assert log.count("warning: bad record: ") == 1
    assert "CRC-32C; another stands in" in log
    assert f"warning: {expected} times so far in this run a record was bad and another stood in" in log
    ours, theirs = final(run)["model"], final(whole)["model"]
    assert all(torch.allclose(ours[key].double(), theirs[key].double(), rtol=1e-4, atol=1e-6) for key in ours)
