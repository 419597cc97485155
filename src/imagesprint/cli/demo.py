"""`imagesprint demo`: images → shards → train → evaluate → report, on scikit-learn's handwritten digits."""

import argparse
import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_verb
from imagesprint.cli.train import summary
from imagesprint.console import Console, printable
from imagesprint.errors import UsageError, needing
from imagesprint.files import TEMPORARY_PATTERN, write_atomically, write_text

EXAMPLES = """\
  imagesprint demo
  imagesprint demo --output /tmp/demo"""

DIGIT_SIZE = 32  # pixels that the 8×8 digits are written at: photos are larger than what they are trained at, too
VALIDATION_FRACTION = 0.2
MARKER = "made-by-imagesprint-demo"


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "demo", "The whole way on 1,797 real handwritten digits.", EXAMPLES, run)
    parser.add_argument("--output", type=Path, default=Path("demo-run"), metavar="DIR", help="default: demo-run")


def run(args: argparse.Namespace, console: Console) -> int:
    """Go the whole way inside --output; print what lies where and what to try next."""
    # So small a network gains 15% from a second thread on two idle cores, and loses half to waiting on busy ones.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from imagesprint.diagnosis.planning import known_plan
    from imagesprint.evaluating.checkpoints import evaluate_checkpoints
    from imagesprint.evaluating.views import PLAIN
    from imagesprint.prepare.preparing import prepare
    from imagesprint.recipes.library import load_recipe
    from imagesprint.report.report import write_report
    from imagesprint.training.training import TrainingOptions, train

    with needing("demo"):
        from sklearn.datasets import load_digits

    folder = args.output
    images, root, run_directory = folder / "images", folder / "data", folder / "run"
    _claim(folder)
    console.line("1/4  images: scikit-learn's handwritten digits")
    _write_digits(load_digits(), images, console)
    console.line("2/4  prepare: image files → TFRecord shards in two sizes")
    prepare(images, root, variants=("full", "16"), val_fraction=VALIDATION_FRACTION, console=console)
    console.line("3/4  train and evaluate: a small ResNet at 16, then at 24 pixels")
    result = train(load_recipe("demo"), root, run_directory, TrainingOptions(device="cpu"), console, known_plan)
    console.line("4/4  report")
    evaluate_checkpoints([Path(result["checkpoint"])], root, PLAIN, "cpu", Console.silent())
    report = write_report(run_directory, console, data=root)
    show(args, {**result, "report": report}, _closing(result, folder, run_directory, report))
    return 0


def _claim(folder: Path) -> None:
    """Make `folder` ours. Raises UsageError where it holds something else."""
    marker = folder / MARKER
    if folder.exists() and not marker.exists():
        ours = folder.is_dir() and all(file.match(TEMPORARY_PATTERN) for file in folder.iterdir())
        if not ours:
            raise UsageError(
                f"--output {folder} holds something else", "choose a new directory: imagesprint demo --output DIR"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(marker, "remove this directory to run the demo from the start\n")
    except OSError as error:
        raise UsageError(
            f"--output {folder} cannot be written: {error.strerror}", "choose another directory"
        ) from error


def _write_digits(digits: Any, folder: Path, console: Console) -> None:
    """Write the digits as PNG files, FOLDER/3-three/0003.png and so on; those that are there already are left."""
    from PIL import Image

    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / f"{label}-{names[label]}" / f"{index:04d}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray((pixels * (255 / 16)).astype("uint8"))  # the digits' ink runs from 0 to 16
        large = small.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BICUBIC)
        write_atomically(path, partial(large.save, format="PNG"))
    console.line(f"     {len(digits.images):,} images in {folder}")


def _closing(result: dict[str, Any], folder: Path, run_directory: Path, report: Path) -> str:
    command, plots = _command(), run_directory / "plots"
    data, output = shlex.quote(str(folder / "data")), shlex.quote(str(folder / "run-2"))
    lines = [
        "",
        *summary(run_directory, result).splitlines()[:-1],
        f"report      {report}",
        *([f"plots       {plots}"] if plots.is_dir() else []),  # not drawn without matplotlib
        f"shards      {folder / 'data'}",
        f"curves      {command.replace('imagesprint', 'tensorboard')} --logdir {run_directory / 'tensorboard'}",
        "",
        "try next",
        f"  {command} train demo --data {data} --output {output} --set seed=1 --processes 2",
        f"  {command} evaluate {shlex.quote(str(run_directory))} --data {data}",
        f"  {command} verify {data}",
        f"  {command} prepare YOUR_PHOTOS ROOT --variants 160 --val-fraction 0.2    # YOUR_PHOTOS/CLASS/*.jpg",
        f"  {command} train finetune --data ROOT --output RUN    # or small, without pretrained weights",
        "",
        f"serve it: start this, open the address that it prints, and drop some of {folder / 'images'} there",
        f"  {command} serve {shlex.quote(str(run_directory))}",
    ]
    return "\n".join(map(printable, lines))


def _command() -> str:
    """How to call imagesprint from this shell: by its name where that is on the PATH, else by its place."""
    beside = Path(sys.executable).with_name("imagesprint")
    found = shutil.which("imagesprint")
    if not beside.exists() or (found is not None and Path(found).resolve() == beside.resolve()):
        return "imagesprint"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
