"""`imagesprint bench data`, `bench step` and `bench train`; `bench predict` is in a module of its own."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli import bench_predict
from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import (
    Parser,
    add_cache_flags,
    add_compile_flag,
    add_device_flags,
    add_set_flag,
    add_verb,
    check_plot,
    positive,
    recipe_named,
)
from imagesprint.console import Console, duration, printable
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.recipes.validation import check_world_size
from imagesprint.runs.environment import is_main_rank
from imagesprint.runs.processes import is_launcher, run_ranks
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.diagnosis import bench_data as of_data
    from imagesprint.diagnosis import bench_step as of_steps
    from imagesprint.diagnosis.step_timing import Setup


def head(device: str, versions: Mapping[str, str]) -> str:
    """Return the line that says what the figures were measured on."""
    return f"{device}; " + ", ".join(f"{name} {version}" for name, version in versions.items())


def step_text(result: "of_steps.StepBench") -> str:
    """Return the result of `bench step`."""
    ceilings = result.ceilings
    lines = [
        head(result.setup.device, result.setup.versions),
        f"{_training(result.setup, [row.speed.compile_seconds for row in result.phases])}, "
        f"{result.steps} steps each on synthetic data",
        f"ceilings of one rank: copy {ceilings.copy_bytes_per_second / 1e9:,.1f} GB/s (read and written), matrix "
        f"product {ceilings.matmul_flops_per_second / 1e12:,.3g} TFLOP/s ({ceilings.dtype})",
        "",
        _step_table(result.phases),
        "ms: of an eager step, by part. bound: images/s ÷ what the memory allows each operation by itself",
    ]
    if result.projection is not None:
        lines += ["", _projection_text(result.projection)]
    if result.variants is not None:
        left_out = (f"{name} is left out: {why}" for name, why in result.left_out.items())
        lines += ["", _variants_table(result.variants), *left_out]
    return "\n".join(lines)


def _training(setup: "Setup", compiling: Sequence[float]) -> str:
    mode = f"compiled in {sum(compiling):.1f} s" if setup.compiled else "eager"
    return (
        f"{printable(setup.recipe)}: {setup.model}, {setup.precision}, {mode}, "
        f"{setup.world_size} rank{'s' if setup.world_size > 1 else ''} of {setup.threads} CPU threads"
    )


def _shape_table(
    shapes: "Sequence[of_steps.StepSpeed | of_steps.TrainedShape]", header: Sequence[str], rows: Sequence[list[object]]
) -> str:
    """A row a shape, behind what it is: also what is frozen, where anything is."""
    named = [[row.image_size, row.batch_size, row.micro_batch, row.freeze] for row in shapes]
    count = 4 if any(row.freeze != "none" for row in shapes) else 3
    whole = [[*name[:count], *row] for name, row in zip(named, rows, strict=True)]
    return table([*["px", "batch", "micro", "frozen"][:count], *header], whole)


def _step_table(phases: "Sequence[of_steps.MeasuredShape]") -> str:
    header = ["images/s", "input", "forw.", "backw.", "reduce", "update ms", "TFLOP/s", "bound", "GB"]
    rows: list[list[object]] = [
        [
            rate(row.speed.images_per_second),
            *(round(1000 * seconds, 1) for seconds in row.seconds_by_part.values()),
            f"{row.limits.flops_per_second / 1e12:.3g} ({row.limits.share_of_matmul:.0%})",
            f"{row.limits.share_of_memory_bound['eager']:.0%}",
            round(row.speed.peak_memory / 1e9, 2),
        ]
        for row in phases
    ]
    return _shape_table([row.speed for row in phases], header, rows)


def _variants_table(variants: "Sequence[tuple[str, of_steps.StepSpeed]]") -> str:
    rows: list[list[object]] = [
        [
            name,
            rate(row.images_per_second),
            round(1000 * row.seconds_per_step, 1),
            round(row.compile_seconds, 1),
            round(row.peak_memory / 1e9, 2),
        ]
        for name, row in variants
    ]
    header = ["variant", "images/s", "ms a step", "compiling s", "GB"]
    return _shape_table([row for _, row in variants], header, rows)


def rate(images_per_second: float) -> float:
    """Return images a second as they are shown."""
    return round(images_per_second) if images_per_second >= 100 else round(images_per_second, 1)


def _projection_text(projection: "of_steps.Projection") -> str:
    rows = [
        [row.image_size, row.steps, row.images, rate(row.images_per_second), duration(row.seconds)]
        for row in projection.phases
    ]
    return (
        f"derived, not measured: the whole recipe on {projection.num_train:,} images would train for "
        f"{projection.seconds:,.0f} s ({duration(projection.seconds)})\n"
        f"= {projection.derived}\n{table(['px', 'steps', 'images', 'images/s', 'time'], rows)}"
    )


def train_text(result: "of_steps.TrainBench") -> str:
    """Return the result of `bench train`."""
    rows: list[list[object]] = [
        [
            rate(row.images_per_second),
            rate(row.synthetic_images_per_second),
            f"{row.share_of_synthetic:.1%}",
            f"{row.data_wait_seconds:.2f} s",
            f"{row.data_wait:.1%}",
        ]
        for row in result.phases
    ]
    return "\n".join(
        [
            head(result.setup.device, result.setup.versions),
            _training(result.setup, [row.compile_seconds for row in result.phases]),
            f"{printable(str(result.data))}, decoder {result.decoder}",
            f"medians of {result.rounds} rounds of {result.steps} steps on images and as many on synthetic data",
            "",
            _shape_table(result.phases, ["images/s", "synthetic", "share", "data wait", "of the time"], rows),
        ]
    )


DATA_EXAMPLES = """\
  imagesprint bench data --data ROOT                          # the largest variant at 224 pixels, every core
  imagesprint bench data --data ROOT --variant 160 --image-size 128 --threads 2
  imagesprint bench data --data ROOT --plot data.png --json"""

STEP_EXAMPLES = """\
  imagesprint bench step minutes104 --num-train 1281167 --plot step.png
  imagesprint bench step minutes104 --processes 8 --json
  imagesprint bench step minutes104 --variants 224
  imagesprint bench step small --device cpu --steps 3 --set 'phases.*.batch_size=32'"""

TRAIN_EXAMPLES = """\
  imagesprint bench train minutes104 --data ROOT
  imagesprint bench train small --data ROOT --steps 5 --processes 2 --json"""

EXAMPLES = "\n".join((DATA_EXAMPLES, STEP_EXAMPLES, TRAIN_EXAMPLES))

DATA_DESCRIPTION = """\
Measure how fast prepared training images are loaded as random-resized crops: by 1, 2, 4, … threads, where the time
goes, and beside Pillow in torch's DataLoader on the same images and crops. They take turns, in five rounds; the
figures are medians. Pillow has the images in memory; imagesprint reads them from the shards and checks them. It takes
a minute or two on a machine that is else idle."""

STEP_DESCRIPTION = """\
Measure training steps of each shape that a recipe's phases have (image size, batch size, micro-batch), on noise that
lies in host memory as the loader's batches do: images a second, the parts of an eager step, the peak of memory, and
how near that comes to what the device can do at best, which is measured in the same call. Whole steps are done:
minutes104's of 5,920 images take a CPU minutes each, so make them smaller there by --set."""

TRAIN_DESCRIPTION = """\
Measure the same steps on prepared images, read and decoded as in training, and on synthetic ones, in turns: images a
second, their share of the synthetic speed, and how long the step waited for data. Figures are medians of three
rounds."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb and what it groups."""
    group = add_verb(
        subparsers,
        "bench",
        "Measure what this machine makes of a part of the work.",
        f"{EXAMPLES}\n{bench_predict.EXAMPLES}",
        None,
    )
    inner = group.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    data = add_verb(inner, "data", DATA_DESCRIPTION, DATA_EXAMPLES, run_data)
    data.add_argument("--data", type=parse_place, required=True, metavar="ROOT", help="a prepared ROOT")
    data.add_argument("--variant", metavar="V", help="full, 320, …; default: the largest that ROOT has")
    data.add_argument("--image-size", type=positive, default=224, metavar="PX", help="side of the crops; default 224")
    data.add_argument("--threads", type=positive, metavar="N", help="default: one a core")
    add_cache_flags(data)

    step = add_verb(inner, "step", STEP_DESCRIPTION, STEP_EXAMPLES, run_step)
    _add_step_flags(step)
    choice = step.add_mutually_exclusive_group()
    choice.add_argument("--num-train", type=positive, metavar="N", help="project the whole recipe's time on N images")
    choice.add_argument(
        "--variants",
        type=positive,
        metavar="PX",
        help="only shapes of this size, and those eager, compiled, and compiled with fused batch norm",
    )

    train = add_verb(inner, "train", TRAIN_DESCRIPTION, TRAIN_EXAMPLES, run_train)
    train.add_argument("--data", type=parse_place, required=True, metavar="ROOT", help="a prepared ROOT")
    _add_step_flags(train)
    add_cache_flags(train)
    for parser in (data, step, train):
        parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the result, too")
    bench_predict.add_command(inner)


def _add_step_flags(parser: Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a built-in's name or a .toml file")
    add_device_flags(parser)
    add_compile_flag(parser)
    add_set_flag(parser)
    parser.add_argument("--steps", type=positive, default=10, metavar="N", help="steps of each shape; default 10")


def run_data(args: argparse.Namespace, console: Console) -> int:
    """Measure; print the figures."""
    from imagesprint.diagnosis.bench_data import bench_data  # imports torch

    check_plot(args)
    result = bench_data(args.data, args.variant, args.image_size, args.threads, console)
    if args.plot is not None:
        from imagesprint.diagnosis.plots import save_data_plot  # imports matplotlib

        save_data_plot(result, args.plot)
        console.line(f"drawn in {args.plot}")
    show(args, result.as_json(), _data_text(result))
    return 0


def run_step(args: argparse.Namespace, console: Console) -> int:
    """Measure steps on synthetic data, in this process or in several; print the figures."""
    recipe = _recipe(args)
    if is_launcher(args.processes):
        return run_ranks(args.processes, args.words)
    from imagesprint.diagnosis.bench_step import bench_step  # imports torch

    result = bench_step(recipe, args.device, args.compile, args.steps, args.num_train, args.variants, console)
    return _finish(args, result, step_text(result), console)


def run_train(args: argparse.Namespace, console: Console) -> int:
    """Measure steps on prepared images, in this process or in several; print the figures."""
    recipe = _recipe(args)
    if is_launcher(args.processes):
        return run_ranks(args.processes, args.words)
    from imagesprint.diagnosis.bench_step import bench_train  # imports torch

    result = bench_train(recipe, args.data, args.device, args.compile, args.steps, console)
    return _finish(args, result, train_text(result), console)


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe to measure; what is wrong with it, the ranks or the plot is better known now than after minutes."""
    recipe = apply_overrides(recipe_named(args.recipe), args.set)
    check_world_size(recipe, args.processes)
    check_plot(args)
    return recipe


def _finish(
    args: argparse.Namespace, result: "of_steps.StepBench | of_steps.TrainBench", text: str, console: Console
) -> int:
    """Draw and print the result, on the main rank alone."""
    if not is_main_rank():
        return 0
    if args.plot is not None:
        from imagesprint.diagnosis.plots import save_step_plot  # imports matplotlib

        save_step_plot(result, args.plot)
        console.line(f"drawn in {args.plot}")
    show(args, result.as_json(), text)
    return 0


def _data_text(result: "of_data.DataBench") -> str:
    lines = [
        head(result.device, result.versions),
        f"{printable(str(result.data))}: {result.images:,} images of {result.mean_bytes:,.0f} bytes → "
        f"{result.image_size} px, batches of {result.batch_size}, decoder {result.decoder}, "
        f"medians of {result.rounds} rounds",
        "",
        _speeds(result.by_threads),
        *(f"{name} is left out: {why}" for name, why in result.left_out.items()),
    ]
    if result.inside is not None:
        lines += ["", _stages(result.inside, result.batch_size)]
    return "\n".join(lines)


def _speeds(by_threads: "Sequence[of_data.AtThreads]") -> str:
    rows: list[list[object]] = []
    for entry in by_threads:
        share = f"{entry.loader_over_decoder_alone:.1%} of the decoder alone"
        rows.append([entry.threads, "imagesprint", *_rates(entry), share])
        rows.append([entry.threads, "its decoder alone", *_rates(entry.decoder_alone), ""])
        for name, peer in entry.peers.items():
            ratio = f"imagesprint does {peer.speedup:.2f} times as many, {peer.cpu_speedup:.2f} a CPU second"
            rows.append([entry.threads, name, *_rates(peer), ratio])
    return table(["threads", "", "images/s", "images/CPU s", ""], rows)


def _rates(timing: "of_data.AtThreads | of_data.Timing | of_data.PeerTiming") -> list[object]:
    return [round(timing.images_per_second), round(timing.images_per_cpu_second)]


def _stages(inside: "of_data.Inside", batch_size: int) -> str:
    stages = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in inside.stages.items())
    lines = [
        f"one thread, microseconds an image: {stages}",
        f"Python takes {inside.python_milliseconds_per_batch:.2f} ms for a batch of {batch_size}",
    ]
    if inside.entropy is not None:
        entropy = inside.entropy
        lines.append(
            f"entropy decoding alone takes libjpeg {entropy['whole_microseconds']:.0f} µs of the whole image, "
            f"{entropy['rows_microseconds']:.0f} µs down to the crop's last row ({entropy['own_microseconds']:.0f} µs "
            "our own decoder): loading takes "
            f"{entropy['loader_over_whole']:.2f} and {entropy['loader_over_rows']:.2f} times as long, decoding alone "
            f"{entropy['decoder_over_whole']:.2f} and {entropy['decoder_over_rows']:.2f} times"
        )
    return "\n".join(lines)
