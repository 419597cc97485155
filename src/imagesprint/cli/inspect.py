"""`imagesprint inspect`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_cache_flags, add_verb, positive
from imagesprint.console import Console, printable
from imagesprint.errors import UsageError
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.records.dataset import Root

EXAMPLES = """\
  imagesprint inspect ROOT --ids 3,17,42
  imagesprint inspect ROOT --ids 3,17,42 --variant 160 --split validation --output odd.png
  imagesprint inspect ROOT --run RUN --step 57     # all that this step was trained on"""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "inspect", "Show samples, or those of a training step, in one PNG.", EXAMPLES, run)
    parser.add_argument("data", type=parse_place, metavar="ROOT", help="what imagesprint prepare made")
    parser.add_argument("--ids", metavar="ID,…", help="sample ids, as an error names them")
    parser.add_argument(
        "--run", dest="run_directory", type=parse_place, metavar="RUN", help="with --step: of which training"
    )
    parser.add_argument("--step", type=positive, metavar="STEP", help="its step, from 1, as in metrics.jsonl")
    parser.add_argument("--variant", help="default: what the step read; with --ids the largest")
    parser.add_argument("--split", default="train", choices=("train", "validation"), help="default: train")
    parser.add_argument("--output", type=Path, default=Path("samples.png"), metavar="FILE", help="default: samples.png")
    add_cache_flags(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the picture; print where it is."""
    from imagesprint.records.dataset import open_root
    from imagesprint.report.pictures import write_contact_sheet  # numpy: not for --help

    if (args.ids is None) == (args.run_directory is None) or (args.run_directory is None) != (args.step is None):
        raise UsageError("give either --ids, or --run and --step", "`imagesprint inspect --help` has examples")
    root = open_root(args.data)
    if args.ids is not None:
        variant, ids = args.variant or root.variants[0], _numbers(args.ids)
    else:
        from imagesprint.runs.local_run import local_run

        with local_run(args.run_directory, console) as directory:
            variant, ids = _of_step(directory, args.step, root)
        variant = args.variant or variant
    write_contact_sheet(root.dataset(variant, args.split), ids, args.output)
    value = {"output": args.output, "variant": variant, "ids": ids}
    text = f"{len(ids)} samples of {variant} in {args.output}: {', '.join(map(str, ids))}"
    show(args, value, printable(text))
    return 0


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(f"--ids {text} are no sample ids", "give numbers with commas between: --ids 3,17,42")
    return [int(word) for word in words]


def _of_step(run_directory: Path, step: int, root: "Root") -> tuple[str, list[int]]:
    """The variant and the sample ids that `step` of a run reads."""
    from imagesprint.loading.sampling import make_sampler
    from imagesprint.recipes.library import load_recipe
    from imagesprint.recipes.schedule import Schedule

    file = run_directory / "recipe.toml"
    if not file.is_file():
        raise UsageError(f"there is no run {run_directory}: it has no recipe.toml", "name a run directory")
    recipe = load_recipe(file)
    dataset = root.dataset(root.nearest(recipe.phases[0].source), "train")
    schedule = Schedule(recipe, len(dataset))
    if step > schedule.total_steps:
        raise UsageError(f"--step {step}: the run has {schedule.total_steps} steps", "give one of them")
    sampler = make_sampler(schedule, recipe.seed, dataset.labels if recipe.balance else None)
    ids: list[int] = sampler.batch(step - 1).ids.tolist()
    return root.nearest(schedule.phase(step - 1).source), ids
