"""`micro_batch` auto: as many images at once as the device holds, settled when a run begins."""

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from imagesprint.console import Console
from imagesprint.errors import RunError
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.validation import check_world_size
from imagesprint.runs.ranks import Ranks
from imagesprint.training.state import TrainingState
from imagesprint.training.step import MicroBatch, out_of_memory

CPU_LIMIT = 32  # images: more make a CPU no faster; with fewer, batch norm's statistics get noisy (arXiv:1706.02677)
MEMORY_SHARE = 0.9  # of a GPU's memory: the rest is for momentum, evaluation and what cannot be used between blocks

Trial = Callable[[Phase, int], str]  # (phase, images at once) → what a pass lacks memory for; "" where it fits


def settle_micro_batches(
    recipe: Recipe, stored: Recipe | None, classes: tuple[str, ...], ranks: Ranks, console: Console
) -> Recipe:
    """`recipe` with a number for each `micro_batch` that is auto; batch sizes stay as they are.

    It is that of the run's `stored` recipe where there is one; else the largest divisor of a rank's share of the
    batch that fits: on a GPU found by trying an eager pass, which needs more memory than a compiled one, on a CPU at
    most CPU_LIMIT. All ranks take the least that any of them found. Raises RunError where not even one image fits,
    RankError where the run began with a number that these ranks cannot share.
    """
    if all(phase.micro_batch for phase in recipe.phases):
        return recipe
    found = [phase.micro_batch for phase in with_stored_sizes(recipe, stored).phases]
    if not all(found):
        trial = _trial(recipe, classes, ranks.device)
        found = [
            phase.micro_batch or min(ranks.gather(_largest(phase, ranks.world_size, trial))) for phase in recipe.phases
        ]
    phases = []
    for index, (phase, size) in enumerate(zip(recipe.phases, found, strict=True)):
        if not phase.micro_batch:
            console.line(
                f"micro_batch phase {index}: auto is {size} here; batch norm sees {size} images at once, and with "
                "another number the result would be another"
            )
        phases.append(replace(phase, micro_batch=phase.micro_batch or size))
    settled = replace(recipe, phases=tuple(phases))
    check_world_size(settled, ranks.world_size)
    return settled


def with_stored_sizes(recipe: Recipe, stored: Recipe | None) -> Recipe:
    """`recipe` with the numbers of the run's `stored` recipe, if there is one, for each `micro_batch` that is auto."""
    if stored is None or len(stored.phases) != len(recipe.phases):
        return recipe
    pairs = zip(recipe.phases, stored.phases, strict=True)
    phases = (replace(phase, micro_batch=phase.micro_batch or old.micro_batch) for phase, old in pairs)
    return replace(recipe, phases=tuple(phases))


def _largest(phase: Phase, world_size: int, trial: Trial) -> int:
    share, failure = phase.batch_size // world_size, ""
    for rows in range(share, 0, -1):
        if share % rows == 0:
            failure = trial(phase, rows)
            if not failure:
                return rows
    raise RunError(
        f"not even one image of {phase.image_size} px fits into the memory of the GPU: {failure}",
        "see what else runs there (nvidia-smi), or choose a smaller image_size or model",
    )


def _trial(recipe: Recipe, classes: tuple[str, ...], device: torch.device) -> Trial:
    if device.type == "cpu":
        return lambda _, rows: "" if rows <= CPU_LIMIT else "more make a CPU no faster"
    # With features once a pass takes less than that through the whole network, which makes the features.
    state = TrainingState(replace(recipe, features_once=False), classes, device)
    micro_batch = MicroBatch(state, device, compiled=False)

    def trial(phase: Phase, rows: int) -> str:
        failure = ""
        state.freeze(phase.freeze)
        torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE, device)
        try:
            micro_batch(*micro_batch.blank(rows, phase.image_size))
        except RuntimeError as error:
            failure = out_of_memory(error)
            if not failure:
                raise
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        # Only here, where the error is gone: its traceback holds what the pass had made, in part in cycles.
        gc.collect()
        torch.cuda.empty_cache()
        return failure

    return trial
