import gc
import hashlib
import io
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imagesprint.errors import ImageError, RankError, RecipeError, RecordError, UsageError
from imagesprint.images.crops import draw_training_crops
from imagesprint.images.native import is_available
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.loading.sampling import batch_specs
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.records.image_record import ImageRecord

Threads = Callable[[], list[str]]
WriteRoot = Callable[[Sequence[ImageRecord]], Path]

# 37 images: 2 steps of 4 micro-batches in each of 2 epochs with 5 left over, then 4 steps with 5 left over
PHASES = (
    Phase((0, 2), (0.1, 0.1), "constant", 16, 4, 24, "24", 0.3),
    Phase((2, 3), (0.1, 0.1), "constant", 8, 2, 32, "full", 0.08),
)
RECIPE = Recipe("test", PHASES, seed=7)
STEPS = 8


def digest(batch: Batch) -> str:
    tensors = (batch.sample_ids, batch.labels, batch.mask, batch.images)
    described = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    content = hashlib.sha256(repr((batch.step, described)).encode())
    for tensor in tensors:
        content.update(tensor.numpy().tobytes())
    return content.hexdigest()


def interleave(loaders: Sequence[Loader]) -> Iterator[Batch]:
    """What all ranks together yield, by step and number of the micro-batch."""
    for together in zip(*loaders, strict=True):
        yield from together


def stream(source: Any, recipe: Recipe | Phase, world_size: int = 1, **options: Any) -> list[str]:
    loaders = [Loader(source, recipe, rank, world_size, **options) for rank in range(world_size)]
    return [digest(batch) for batch in interleave(loaders)]


@pytest.mark.parametrize("crop", ["random_resized", "distorted_bbox", "center"])
def test_the_stream_is_the_same_for_any_ranks_threads_and_start(root_path: Path, crop: str) -> None:
    recipe = replace(RECIPE, crop=crop)
    whole = stream(root_path, recipe)
    assert len(whole) == len(set(whole)) == STEPS * 4
    assert stream(root_path, recipe, 2) == whole
    assert stream(root_path, recipe, 4, threads=1) == whole
    assert stream(root_path, recipe, threads=1) == whole
    assert stream(root_path, recipe, threads=4) == whole
    for start in (1, 3, 4, 7, 8):
        assert stream(root_path, recipe, start_step=start) == whole[start * 4 :]
    assert stream(root_path, recipe, 2, start_step=3, end_step=6) == whole[12:24]
    assert stream(root_path, replace(recipe, seed=8)) != whole


@pytest.mark.skipif(not is_available(), reason="the native decoder is not built")
@pytest.mark.parametrize("antialias", [True, False])
def test_the_native_stream_is_the_same_for_1_to_8_threads_and_both_resizers(
    root_path: Path, monkeypatch: pytest.MonkeyPatch, antialias: bool
) -> None:
    recipe = replace(RECIPE, antialias=antialias)
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    by_pillow = stream(root_path, recipe)
    found = []
    for name in ("native", "native-portable"):
        monkeypatch.setenv("IMAGESPRINT_DECODER", name)
        found += [stream(root_path, recipe, threads=threads) for threads in range(1, 9)]
    assert found == found[:1] * 16
    assert found[0] != by_pillow


def test_epochs_are_other_orders_and_other_crops(root_path: Path) -> None:
    recipe = replace(RECIPE, phases=(replace(PHASES[0], batch_size=37, micro_batch=37),))
    first, second = (
        {int(i): image.clone() for i, image in zip(batch.sample_ids, batch.images, strict=True)}
        for batch in Loader(root_path, recipe)
    )
    assert list(first) != list(second)
    assert sorted(first) == sorted(second) == list(range(37))
    assert sum(torch.equal(first[i], second[i]) for i in first) == 0


def test_batches_hold_what_they_say(root_path: Path) -> None:
    batches = 0
    for batch in Loader(root_path, RECIPE):
        phase, spec = PHASES[batch.step // 4], batch_specs(RECIPE)[batch.step // 4]
        dataset = open_dataset(root_path, phase.source, "train")
        ids = batch.sample_ids.numpy()
        assert batch.images.shape == (phase.micro_batch, phase.image_size, phase.image_size, 3)
        assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
        assert (batch.sample_ids.dtype, batch.mask.dtype) == (torch.int64, torch.bool)
        assert batch.images.is_contiguous()
        assert batch.mask.all()
        assert batch.labels.tolist() == (ids % 2).tolist()
        epoch = batch.step // 2 if batch.step < 4 else 2
        crops, flips = draw_training_crops(spec.crop, RECIPE.seed, dataset.sizes[ids], None, epoch, ids)
        for row, sample_id in enumerate(ids.tolist()):
            image = Image.open(io.BytesIO(dataset.read(sample_id))).convert("RGB").crop(tuple(crops[row].tolist()))
            pixels = np.asarray(image.resize(batch.images.shape[1:3], Image.Resampling.BILINEAR))
            # The native decoder rounds its weights.
            np.testing.assert_allclose(batch.images[row], pixels[:, ::-1] if flips[row] else pixels, rtol=0, atol=2)
        batches += 1
    assert batches == 32


def test_a_root_a_path_and_a_dataset(root_path: Path) -> None:
    assert stream(open_root(root_path), RECIPE) == stream(str(root_path), RECIPE)
    one = open_dataset(root_path, "full", "train")
    everywhere = replace(RECIPE, phases=tuple(replace(phase, source="full") for phase in PHASES))
    assert stream(one, RECIPE) == stream(root_path, everywhere)
    assert one.read(0)


def test_a_missing_variant_is_noted(root_path: Path) -> None:
    phases = (replace(PHASES[0], source="20"), replace(PHASES[0], epochs=(2, 3), source="160"))
    loader = Loader(root_path, replace(RECIPE, phases=phases))
    assert loader.notes == [
        f"{root_path} has no variant 20: 24 is used instead",
        f"{root_path} has no variant 160: full is used instead",
    ]
    assert Loader(root_path, RECIPE).notes == []


def test_a_phase_alone_begins_at_step_0(root_path: Path) -> None:
    shifted = replace(PHASES[1], epochs=(0, 1))
    expected = stream(root_path, Recipe("alone", (shifted,)))
    assert len(expected) == 16
    assert stream(root_path, PHASES[1]) == expected
    in_steps = replace(PHASES[1], epochs=None, steps=(10, 13))
    assert stream(root_path, in_steps) == expected[:12]


def test_a_batch_stays_valid_until_the_next_one(root_path: Path) -> None:
    pointers = set()
    for batch in Loader(root_path, RECIPE):
        before = digest(batch)
        time.sleep(0.01)  # the producer goes on meanwhile
        assert digest(batch) == before
        pointers.add(batch.images.data_ptr())
    assert len(pointers) == 3


def test_wait_seconds_counts_the_time_waited(root_path: Path) -> None:
    loader = Loader(root_path, RECIPE)
    assert loader.wait_seconds == 0
    start = time.perf_counter()
    for _ in loader:
        time.sleep(0.002)
    assert 0 < loader.wait_seconds <= time.perf_counter() - start - 32 * 0.002
    before = loader.wait_seconds
    assert len(list(loader)) == 32
    assert loader.wait_seconds > before


def fail_in_the_middle(loader: Loader) -> None:
    for batch in loader:
        _ = batch.step / 0


def test_no_thread_is_left(root_path: Path, own_threads: Threads) -> None:
    loader = Loader(root_path, RECIPE, threads=3)
    assert not own_threads()  # nothing runs before the first batch is asked for
    assert len(list(loader)) == 32
    assert not own_threads(), "at the end"

    for _ in loader:
        assert own_threads()
        break
    assert not own_threads(), "after an early exit"

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle(loader)
    assert not own_threads(), "after an exception"

    batches = iter(loader)
    next(batches)
    loader.close()
    loader.close()
    assert not own_threads(), "after close()"
    with pytest.raises(RuntimeError, match="ended from outside"):
        next(batches)
    assert len(list(loader)) == 32  # and it can be used again

    with loader:
        batches = iter(loader)
        next(batches)
    assert not own_threads(), "after its context"

    batches = iter(loader)
    next(batches)
    again = iter(loader)
    next(again)
    with pytest.raises(RuntimeError, match="ended from outside"):  # a new pass ends the former
        next(batches)
    cycle: list[Any] = [again]
    cycle.append(cycle)
    del loader, batches, again, cycle
    gc.collect()
    assert not own_threads(), "as garbage"


def test_the_interpreter_exits_in_the_middle_of_a_pass(root_path: Path) -> None:
    code = "import pickle, sys; batches = iter(pickle.load(sys.stdin.buffer)); print(next(batches).step)"
    loader = pickle.dumps(Loader(root_path, RECIPE, threads=2))
    done = subprocess.run([sys.executable, "-c", code], input=loader, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")


def test_works_in_a_forked_child(root_path: Path) -> None:
    loader = Loader(root_path, RECIPE, threads=2)
    batches = iter(loader)
    first = digest(next(batches))  # its threads run, here
    child = os.fork()
    if child == 0:
        code = 1
        try:
            digests = [digest(batch) for batch in loader]
            code = 0 if len(digests) == 32 and digests[0] == first else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(batches)) == 31


@pytest.mark.parametrize("threads", [1, 3])
def test_an_image_that_cannot_be_decoded(
    write_root: WriteRoot, train_records: list[ImageRecord], own_threads: Threads, threads: int
) -> None:
    bad = train_records[11]
    train_records[11] = replace(bad, encoded=bad.encoded[: len(bad.encoded) // 2])
    root = write_root(train_records)
    recipe = Recipe("test", (Phase((0, 1), (0.1, 0.1), "constant", 16, 2, 16),))
    batches = iter(Loader(root, recipe, threads=threads))
    sampler = Loader(root, recipe).sampler()
    for index in range(8):
        ids = sampler.micro_batch(0, index).ids.tolist()
        if 11 in ids:
            break
        assert next(batches).sample_ids.tolist() == ids  # what comes before the bad one comes through
    with pytest.raises(ImageError) as caught:
        next(batches)
    # sample 11 is record 3 of the second shard
    assert f"{root / 'full' / 'train-00001-of-00002'}, record 3, image11.jpg: " in caught.value.what
    assert ": damaged: " in caught.value.what
    assert "prepare" in caught.value.hint
    assert not own_threads()


def test_a_flipped_bit(write_root: WriteRoot, train_records: list[ImageRecord], own_threads: Threads) -> None:
    root = write_root(train_records)
    loader = Loader(root, replace(RECIPE, phases=(replace(PHASES[0], source="full"),)))
    shard = root / "full" / "train-00001-of-00002"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        list(loader)
    assert str(shard) in caught.value.what
    assert "verify" in caught.value.hint
    assert not own_threads()


def test_an_index_of_other_sizes(write_root: WriteRoot, train_records: list[ImageRecord]) -> None:
    root = write_root([replace(record, height=5000, width=5000) for record in train_records])
    with pytest.raises(ImageError, match=r"record \d+, image\d+.jpg: an image of .* cannot be cropped to"):
        list(Loader(root, replace(PHASES[0], min_area=0.5)))


def test_variants_of_different_lengths(root_path: Path, write_root: WriteRoot, train_records: Any) -> None:
    root = write_root(train_records)
    (root / "24").symlink_to(root_path / "24")
    with pytest.raises(RecordError, match=r"\(24: 37, full: 16\)"):
        Loader(root, RECIPE)


def test_wrong_use(root_path: Path) -> None:
    with pytest.raises(RankError, match="3 ranks"):
        Loader(root_path, RECIPE, 0, 3)
    for rank, world_size in ((4, 4), (-1, 2)):
        with pytest.raises(RankError, match=f"no rank {rank} among {world_size}"):
            Loader(root_path, RECIPE, rank, world_size)
    for start, end in ((9, None), (-1, None), (3, 2), (0, 9)):
        with pytest.raises(UsageError, match="schedule"):
            Loader(root_path, RECIPE, start_step=start, end_step=end)
    with pytest.raises(UsageError, match="0 threads"):
        Loader(root_path, RECIPE, threads=0)
    with pytest.raises(RecipeError, match="37 training images"):
        Loader(root_path, replace(PHASES[0], batch_size=40, micro_batch=10))
    with pytest.raises(RecipeError, match="micro_batch"):
        Loader(root_path, replace(PHASES[0], micro_batch=3))
    with pytest.raises(UsageError):
        Loader(root_path / "nowhere", RECIPE)


@pytest.mark.gpu
def test_pinned_batches(root_path: Path) -> None:
    for batch in Loader(root_path, RECIPE, pin=True):
        assert batch.images.is_pinned()
        assert batch.labels.is_pinned()
    assert stream(root_path, RECIPE, pin=True) == stream(root_path, RECIPE)
