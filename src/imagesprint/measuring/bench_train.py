"""`bench train`: how fast training steps are on prepared images, beside the same steps on synthetic ones."""

from pathlib import Path
from statistics import median
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.images.decoders import decoder_name
from imagesprint.measuring.step_timing import TimedTraining, distinct_shapes, steps_ahead, training_loader
from imagesprint.measuring.synthetic import synthetic_batches
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.ranks import open_ranks
from imagesprint.training.prefetch import on_device

STEPS: Final = 10
ROUNDS: Final = 3


def bench_train(
    recipe: Recipe, data: Path, device: str, compilation: str, steps: int, console: Console
) -> dict[str, Any]:
    """Measure each shape of `recipe`'s phases on auto, cpu or cuda, compiled or not (auto, on or off): ROUNDS times
    `steps` steps on images of the root `data`, in turn with as many on synthetic ones.

    Return, on every rank, the object that `imagesprint bench train --json` prints. Raises the errors of `train`.
    """
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        training = TimedTraining(recipe, len(root.classes), ranks, compilation)
        phases = []
        for phase in distinct_shapes(training.recipe):
            console.live(
                f"measuring  {phase.image_size} px, batch {phase.batch_size}", f"micro-batch {phase.micro_batch}"
            )
            phases.append(_measure_beside(training, phase, root, steps))
        console.live(f"measured {ROUNDS} × {steps} steps of {len(phases)} shapes", last=True)
        return {
            "bench": "train",
            **training.described(),
            "data": root.path,
            "decoder": decoder_name(),
            "steps": steps,
            "rounds": ROUNDS,
            "phases": phases,
        }


def _measure_beside(training: TimedTraining, phase: Phase, root: Root, steps: int) -> dict[str, Any]:
    ranks, compile_seconds = training.ranks, training.compile(phase)
    lead = steps_ahead(phase, ranks.world_size)
    synthetic = on_device(synthetic_batches(phase, len(root.classes), ranks.device), ranks.device)
    loaded, noise, waits = [], [], []
    with training_loader(training, phase, root, ROUNDS * (lead + steps)) as loader:
        batches = on_device(iter(loader), ranks.device)
        for _ in range(ROUNDS):
            training.seconds(batches, phase, 0, lead)
            waited = loader.wait_seconds
            loaded.append(sum(training.seconds(batches, phase, steps, 0)))
            waits.append(loader.wait_seconds - waited)
            noise.append(sum(training.seconds(synthetic, phase, steps, lead)))
    images = steps * phase.batch_size
    return {
        "image_size": phase.image_size,
        "batch_size": phase.batch_size,
        "micro_batch": phase.micro_batch,
        "compile_seconds": compile_seconds,
        "images_per_second": images / median(loaded),
        "synthetic_images_per_second": images / median(noise),
        "share_of_synthetic": median(theirs / ours for ours, theirs in zip(loaded, noise, strict=True)),
        "data_wait_seconds": median(waits),
        "mean_bytes": float(root.dataset(root.nearest(phase.source), "train").encoded_lengths.mean()),
        "data_wait": median(wait / seconds for wait, seconds in zip(waits, loaded, strict=True)),
    }
