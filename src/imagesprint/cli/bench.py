"""`imagesprint bench data`; `bench predict` is in a module of its own."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagesprint.cli import bench_predict
from imagesprint.cli.output import show, table
from imagesprint.cli.parsing import Parser, add_verb, positive
from imagesprint.console import Console
from imagesprint.errors import UsageError

EXAMPLES = """\
  imagesprint bench data --data ROOT                          # the largest variant at 224 pixels, every core
  imagesprint bench data --data ROOT --variant 160 --image-size 128 --threads 2
  imagesprint bench data --data ROOT --plot data.png --json"""

DESCRIPTION = """\
Measure how fast prepared training images are loaded as random-resized crops: by 1, 2, 4, … threads, where the time
goes, and beside others on the same images and crops: Pillow in torch's DataLoader, and OpenCV, tf.data and DALI
where they are installed. All take turns, in five rounds; the figures are medians. Others have the images in memory;
imagesprint reads them from the shards and checks them. It takes minutes on a machine that is else idle."""


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

    data = add_verb(inner, "data", DESCRIPTION, EXAMPLES, run_data)
    data.add_argument("--data", type=Path, required=True, metavar="ROOT", help="a prepared ROOT")
    data.add_argument("--variant", metavar="V", help="full, 320, …; default: the largest that ROOT has")
    data.add_argument("--image-size", type=positive, default=224, metavar="PX", help="side of the crops; default 224")
    data.add_argument("--threads", type=positive, metavar="N", help="default: one a core")
    data.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the result, too")

    bench_predict.add_command(inner)


def run_data(args: argparse.Namespace, console: Console) -> int:
    """Measure; print the figures."""
    from imagesprint.measuring.bench_data import bench_data  # imports torch

    if args.plot is not None and not args.plot.parent.is_dir():  # better now than after minutes
        raise UsageError(f"cannot write {args.plot}: there is no folder {args.plot.parent}", "choose another --plot")
    result = bench_data(args.data, args.variant, args.image_size, args.threads, console)
    if args.plot is not None:
        from imagesprint.measuring.data_plot import save_plot  # imports matplotlib

        save_plot(result, args.plot)
        console.line(f"drawn in {args.plot}")
    show(args, result, _as_text(result))
    return 0


def _as_text(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['device']}; " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        f"{result['data']}: {result['images']:,} images of {result['mean_bytes']:,.0f} bytes → {result['image_size']} "
        f"px, batches of {result['batch_size']}, decoder {result['decoder']}, medians of {result['rounds']} rounds",
        "",
        _speeds(result["by_threads"]),
        *(f"{name} is left out: {why}" for name, why in result["left_out"].items()),
    ]
    if "stages" in result:
        lines += ["", _stages(result)]
    return "\n".join(lines)


def _speeds(by_threads: list[Mapping[str, Any]]) -> str:
    rows: list[list[object]] = []
    for entry in by_threads:
        share = f"{entry['loader_over_decoder_alone']:.1%} of the decoder alone"
        rows.append([entry["threads"], "imagesprint", *_rates(entry), share])
        rows.append([entry["threads"], "its decoder alone", *_rates(vars(entry["decoder_alone"])), ""])
        for name, peer in entry["peers"].items():
            ratio = f"imagesprint does {peer['speedup']:.2f} times as many, {peer['cpu_speedup']:.2f} a CPU second"
            rows.append([entry["threads"], name, *_rates(peer), ratio])
    return table(["threads", "", "images/s", "images/CPU s", ""], rows)


def _rates(timing: Mapping[str, Any]) -> list[object]:
    return [round(timing["images_per_second"]), round(timing["images_per_cpu_second"])]


def _stages(result: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in result["stages"].items())
    lines = [
        f"one thread, microseconds an image: {stages}",
        f"Python takes {result['python_milliseconds_per_batch']:.2f} ms for a batch of {result['batch_size']}",
    ]
    if result["entropy"] is not None:
        entropy = result["entropy"]
        lines.append(
            f"entropy decoding alone takes {entropy['whole_microseconds']:.0f} µs of the whole image, "
            f"{entropy['rows_microseconds']:.0f} µs down to the crop's last row: loading takes "
            f"{entropy['loader_over_whole']:.2f} and {entropy['loader_over_rows']:.2f} times as long, decoding alone "
            f"{entropy['decoder_over_whole']:.2f} and {entropy['decoder_over_rows']:.2f} times"
        )
    return "\n".join(lines)
