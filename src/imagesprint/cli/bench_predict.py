"""`imagesprint bench predict`: its flags and what it prints."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_device_flag, add_verb, check_plot, positive
from imagesprint.console import Console

if TYPE_CHECKING:
    from imagesprint.diagnosis.bench_predict import PredictBench

EXAMPLES = """\
  imagesprint bench predict baseline90                        # ResNet-50 as untrained, which is as fast
  imagesprint bench predict model-int8.onnx
  imagesprint bench predict RUN --batch-sizes 1,16 --threads 1,4 --plot predict.png --json"""

DESCRIPTION = """\
Measure how long a prediction takes, from pixels and from JPEG files to probabilities: eager, compiled, and exported to
ONNX in ONNX Runtime and OpenVINO where they are installed, in fp32 and int8, in turns of five rounds. p50, p90 and p99
are percentiles over the calls of all rounds, which follow one another at once. The images are two of 640 × 427 pixels
and 175 kB."""


def add_command(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command to `bench`."""
    parser = add_verb(commands, "predict", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "model", metavar="MODEL", help="a run, a checkpoint, an .onnx file, a recipe's name or its .toml"
    )
    parser.add_argument(
        "--batch-sizes", type=_numbers, default=(1, 8, 32), metavar="N,N,…", help="images a call; default 1,8,32"
    )
    parser.add_argument("--threads", type=_numbers, default=(), metavar="N,N,…", help="default: 1 and one a core")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the result, too")
    add_device_flag(parser)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in text.split(",")}))


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure; print the figures."""
    from imagesprint.diagnosis.bench_predict import bench_predict  # imports torch

    check_plot(args)
    result = bench_predict(args.model, args.batch_sizes, args.threads, args.device, console)
    if args.plot is not None:
        from imagesprint.diagnosis.plots import save_predict_plot  # imports matplotlib

        save_predict_plot(result, args.plot)
        console.line(f"drawn in {args.plot}")
    show(args, result, _as_text(result))
    return 0


def _as_text(result: "PredictBench") -> str:
    header = ["threads", "batch", "from", "runtime", "precision", "p50 ms", "p90 ms", "p99 ms", "images/s", "calls"]
    rows = [
        [
            *(call.threads, call.batch_size, "JPEG" if call.decoding else "pixels", call.runtime, call.precision),
            *(round(1e3 * seconds, 1) for seconds in (call.p50, call.p90, call.p99)),
            round(call.images_per_second, 1),
            call.num_calls,
        ]
        for call in result.calls
    ]
    lines = [
        result.device,
        ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        f"{result.model}, {result.num_classes:,} classes, {result.image_size} px, "
        f"decoder {result.decoder}, {result.rounds} rounds",
        "",
        table(header, rows),
        *(f"{name} is left out: {why}" for name, why in result.left_out.items()),
    ]
    return "\n".join(lines)
