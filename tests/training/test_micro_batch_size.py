import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.console import Console
from imagesprint.errors import RankError
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.runs.ranks import Ranks
from imagesprint.training import micro_batch_size
from imagesprint.training.micro_batch_size import CPU_LIMIT, settle_micro_batches

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSES = ("a", "b")


def settle(recipe: Recipe, stored: Recipe | None = None) -> Recipe:
    return settle_micro_batches(recipe, stored, CLASSES, ALONE, Console(quiet=True))


def test_on_a_cpu_the_largest_divisor_up_to_the_limit() -> None:
    recipe = apply_overrides(load_recipe("minutes104"), ["phases.*.micro_batch=auto", "phases.4.batch_size=1036"])
    settled = settle(recipe)
    assert [phase.batch_size for phase in settled.phases] == [5920, 5920, 2048, 1568, 1036]
    assert CPU_LIMIT == 32
    assert [phase.micro_batch for phase in settled.phases] == [32, 32, 32, 32, 28]


def test_numbers_stay_as_they_are() -> None:
    recipe = apply_overrides(load_recipe("minutes104"), ["phases.1.micro_batch=auto"])
    assert [phase.micro_batch for phase in settle(recipe).phases] == [740, 32, 256, 196, 128]
    assert settle(load_recipe("minutes104")) == load_recipe("minutes104")


def test_a_run_keeps_what_it_began_with() -> None:
    stored = load_recipe("minutes104")
    assert settle(apply_overrides(stored, ["phases.*.micro_batch=auto"]), stored) == stored


def test_ranks_that_cannot_share_what_the_run_began_with() -> None:
    stored = load_recipe("minutes104")
    recipe = apply_overrides(stored, ["phases.*.micro_batch=auto"])
    with pytest.raises(RankError, match="16 ranks cannot share the 8 micro-batches"):
        settle_micro_batches(recipe, stored, CLASSES, replace(ALONE, world_size=16), Console(quiet=True))


def test_another_number_of_phases_is_another_recipe() -> None:
    recipe = apply_overrides(load_recipe("minutes104"), ["phases.*.micro_batch=auto"])
    stored = replace(recipe, phases=load_recipe("minutes104").phases[:2])
    assert settle(recipe, stored).phases[0].micro_batch == 32


def held_memory() -> int:
    """Bytes on the GPU, without the workspaces that cuBLAS keeps for good once it has multiplied."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_what_fits_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 2.5 GB of its memory, into which 256 images of 128 px do not fit: as a whole, an H200 holds any batch here."""
    monkeypatch.setattr(micro_batch_size, "MEMORY_SHARE", 2.5e9 / torch.cuda.mem_get_info()[1])
    whole = load_recipe("minutes104")
    first = replace(whole.phases[0], epochs=(0, 1), batch_size=256, micro_batch=0)
    recipe = replace(whole, precision="bf16", phases=(first,))
    ranks, before = replace(ALONE, device=torch.device("cuda", 0)), held_memory()
    (phase,) = settle_micro_batches(recipe, None, CLASSES, ranks, Console(quiet=True)).phases
    assert phase.micro_batch in (8, 16, 32, 64, 128)
    # The trial left nothing behind: weights and gradients alone are 190 MB. What cuBLASLt may keep is 32 MB a stream.
    assert held_memory() - before < 2**26


def test_train_writes_the_number_and_goes_on_with_it(
    imagesprint: Callable[..., Any], photo_root: Path, tiny: Path, tmp_path: Path
) -> None:
    words = ("train", tiny, "--data", photo_root, "--output", tmp_path / "run", "--set", "phases.*.micro_batch=auto")
    planned = imagesprint(*words, "--dry-run")
    assert planned.code == 0, planned.stderr
    assert "as they fit into memory (auto)" in planned.stderr
    begun = imagesprint(*words, "--stop-after", 1)
    assert begun.code == 0, begun.stderr
    assert "auto is 16 here; batch norm sees 16 images" in begun.stderr
    assert (tmp_path / "run" / "recipe.toml").read_text().count("micro_batch = 16,") == 2
    resumed = imagesprint(*words, "--stop-after", 2, "--json")
    assert resumed.code == 0, resumed.stderr
    assert resumed.json["steps"] == 2
    assert resumed.json["compile_seconds"] == 0
