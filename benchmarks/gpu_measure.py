"""What gpu_check.py measures on the device, each call one thing: ceilings, training steps, or evaluation.

    python benchmarks/gpu_measure.py machine minutes104
    python benchmarks/gpu_measure.py steps minutes104 --variant compiled --pixels 128,288 --steps 8
    python benchmarks/gpu_measure.py evaluation minutes104

Each line printed is one JSON value with all that is known by then, so that a call that is cut off has said something.
Steps are those of `bench step`, whole ones on noise with a head of 1,000 classes; then one more is done under
torch.profiler, whose ten dearest kernels are told. Evaluation is what `evaluate` does with a batch, on noise.
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.cli.output import to_json
from imagesprint.console import Console
from imagesprint.diagnosis.bench_step import CLASSES, VARIANTS, WARM_UP, measure_speed
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.diagnosis.roofline import count_work, measure_ceilings
from imagesprint.diagnosis.step_timing import TimedTraining, device_name, synthetic_batches
from imagesprint.evaluating import evaluation
from imagesprint.evaluating.evaluation import blank_table, judge
from imagesprint.images.decoders import describe_decoder
from imagesprint.model.building import build_model
from imagesprint.model.fusing import is_fused
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.training.optimizer import best_precision
from imagesprint.training.prefetch import Stopwatch

DEAREST = 10  # kernels that are told
# How evaluation's convolutions compute: --precision of the recipe is no matter here
EVALUATIONS = {"cuda": ("fp32", "tf32", "bf16"), "cpu": ("fp32", "bf16")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("recipe")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--variant", choices=VARIANTS, default="compiled", help="of steps")
    parser.add_argument(
        "--pixels", default="224", help="of steps: the image sizes, each the recipe's first phase of it"
    )
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    with open_ranks(args.device) as ranks:
        return MEASURES[args.what](load_recipe(args.recipe), ranks, args)


def measure_machine(recipe: Recipe, ranks: Ranks, _: argparse.Namespace) -> int:
    """What the figures belong to, and what the device can do at best."""
    about = {
        "bench": "machine",
        "gpu": device_name(ranks) if ranks.device.type == "cuda" else None,
        "processor": processor(),
        "decoder": describe_decoder(),
        "versions": versions("torch", "triton", "numpy", "pillow", "pytest"),
    }
    say(about)
    recipe = replace(recipe, precision=best_precision(ranks.device))
    say(about | {"ceilings": measure_ceilings(recipe, ranks.device)})
    return 0


def measure_steps(recipe: Recipe, ranks: Ranks, args: argparse.Namespace) -> int:
    """How fast steps are in one of VARIANTS, and which kernels take the most of them.

    Fails where our kernels were to train and do not: the figures would be those of another variant.
    """
    compilation, fused = VARIANTS[args.variant]
    training = TimedTraining(recipe, CLASSES, ranks, compilation, fused)
    rows: list[dict[str, Any]] = []
    result = {"bench": "steps", "variant": args.variant, "precision": training.recipe.precision, "phases": rows}
    result["not_fused"] = None
    if fused and not is_fused(training.state.network):
        why = training.state.not_fused or f"they are not for {training.recipe.precision} on {ranks.device}"
        say({**result, "not_fused": why})
        return 1
    for phase in first_phases(recipe, args.pixels):
        speed = measure_speed(training, phase, args.steps, Console.silent())
        rows.append({**vars(speed), "flops_per_image": count_work(training.recipe, phase, CLASSES).flops})
        for found in ({}, profile_step(training, phase)):
            rows[-1] |= found
            say(result)
    return 0


def first_phases(recipe: Recipe, pixels: str) -> list[Phase]:
    """The first phase of each image size of a list such as "128,288"."""
    return [next(phase for phase in recipe.phases if phase.image_size == int(size)) for size in pixels.split(",")]


def profile_step(training: TimedTraining, phase: Phase) -> dict[str, Any]:
    """What one step's kernels take, and how long it took under the profiler."""
    device = training.ranks.device
    batches = training.noise(phase)
    training.seconds(batches, phase, 0, 1)
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        (step,) = training.seconds(batches, phase, 1, 0)
    return {**dearest_kernels(profiler.events() or (), device), "profiled_step_seconds": step}


def dearest_kernels(events: Iterable[Any], device: torch.device) -> dict[str, Any]:
    """The DEAREST kernels by their time, in seconds, and all together; those of a CPU are PyTorch's operations."""
    seconds, calls = Counter[str](), Counter[str]()
    for event in events:
        if device.type == "cuda":
            # Calls of the driver are the CPU's; ranges that a program names lie over kernels, and would count twice.
            if event.device_type != DeviceType.CUDA or event.is_user_annotation:
                continue
            took = event.time_range.elapsed_us()
        else:
            took = event.self_cpu_time_total
        seconds[event.name] += took / 1e6
        calls[event.name] += 1
    total = seconds.total()
    kernels = [
        {"name": name, "calls": calls[name], "seconds": took, "share": took / total}
        for name, took in seconds.most_common(DEAREST)
        if took
    ]
    return {"kernels": kernels, "kernel_calls": calls.total(), "kernel_seconds": total}


def measure_evaluation(recipe: Recipe, ranks: Ranks, args: argparse.Namespace) -> int:
    """How fast a batch is judged in each of EVALUATIONS."""
    device, rows, size = ranks.device, recipe.eval_batch_size, recipe.eval_image_size
    names = tuple(str(label) for label in range(CLASSES))
    model = TrainedModel(build_model(recipe, CLASSES), recipe, names, 1).to(device).eval()
    phase = replace(recipe.phases[0], image_size=size, batch_size=rows, micro_batch=rows)
    batches, table = synthetic_batches(phase, CLASSES, device), blank_table(rows, device)
    speeds: dict[str, float] = {}
    for precision in EVALUATIONS[device.type]:
        with computing_in(precision, device):
            judge(model, itertools.islice(batches, WARM_UP), table)
            laps = Stopwatch(device).laps(lambda: judge(model, [next(batches)], table), args.steps)
        speeds[precision] = rows / median(laps)
        say({"bench": "evaluation", "image_size": size, "batch_size": rows, "images_per_second": speeds})
    return 0


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, convolutions and matrix products compute in fp32, tf32 or bf16, also those of `judge`."""
    before, is_tf32 = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32), precision == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = is_tf32
    try:
        with (
            mock.patch.object(evaluation, "evaluation_precision", return_value="tf32" if is_tf32 else "fp32"),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def say(value: dict[str, Any]) -> None:
    """Print a line of JSON at once."""
    print(to_json(value), flush=True)


MEASURES: dict[str, Callable[[Recipe, Ranks, argparse.Namespace], int]] = {  # to the exit code
    "machine": measure_machine,
    "steps": measure_steps,
    "evaluation": measure_evaluation,
}

if __name__ == "__main__":
    sys.exit(main())
