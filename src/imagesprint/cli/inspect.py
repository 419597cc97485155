"""`imagesprint inspect`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_cache_flags, add_set_flag, add_verb, positive, recipe_named
from imagesprint.console import Console, printable
from imagesprint.errors import DataError, UsageError
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.records.dataset import Root
    from imagesprint.training.transforms import Seen

EXAMPLES = """\
  imagesprint inspect ROOT --ids 3,17,42
  imagesprint inspect ROOT --ids 3,17,42 --variant 160 --split validation --output odd.png
  imagesprint inspect ROOT --run RUN --step 57     # all that this step was trained on, and what the network saw of it
  imagesprint inspect ROOT --recipe small --set 'augment=trivial,cutmix 1' --step 1"""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "inspect", "Show samples, or those of a training step, in one PNG.", EXAMPLES, run)
    parser.add_argument("data", type=parse_place, metavar="ROOT", help="what imagesprint prepare made")
    parser.add_argument("--ids", metavar="ID,…", help="sample ids, as an error names them")
    parser.add_argument(
        "--run", dest="run_directory", type=parse_place, metavar="RUN", help="with --step: of which training"
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="with --step: of a training by this recipe")
    add_set_flag(parser)
    parser.add_argument("--step", type=positive, metavar="STEP", help="its step, from 1, as in metrics.jsonl")
    parser.add_argument("--variant", help="default: what the step read; with --ids the largest")
    parser.add_argument("--split", default="train", choices=("train", "validation"), help="default: train")
    parser.add_argument("--output", type=Path, default=Path("samples.png"), metavar="FILE", help="default: samples.png")
    add_cache_flags(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the picture; print where it is."""
    from imagesprint.records.dataset import open_root
    from imagesprint.report.pictures import write_contact_sheet  # numpy: not for --help

    _check_flags(args)
    root = open_root(args.data)
    seen: list[Seen] = []
    if args.ids is not None:
        variant, ids = args.variant or root.variants[0], _numbers(args.ids)
    else:
        recipe = _recipe(args, console)
        variant, ids = _of_step(recipe, args.step, root)
        seen = _seen(root, recipe, args.step, console)
        variant, ids = args.variant or variant, [each.sample_id for each in seen] or ids
    write_contact_sheet(root.dataset(variant, args.split), ids, args.output, seen)
    value = {"output": args.output, "variant": variant, "ids": ids}
    text = f"{len(ids)} samples of {variant} in {args.output}: {', '.join(map(str, ids))}"
    show(args, value, printable(text))
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    hint = "`imagesprint inspect --help` has examples"
    chosen = [value is not None for value in (args.ids, args.run_directory, args.recipe)]
    if sum(chosen) != 1 or (args.ids is None) != (args.step is not None):
        raise UsageError("give either --ids, or --step with --run or --recipe", hint)
    if args.set and args.recipe is None:
        raise UsageError("--set changes the recipe of --recipe, which is not given", hint)
    if args.step is not None and args.split != "train":
        raise UsageError("--split validation has no training steps", hint)


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(f"--ids {text} are no sample ids", "give numbers with commas between: --ids 3,17,42")
    return [int(word) for word in words]


def _recipe(args: argparse.Namespace, console: Console) -> Recipe:
    if args.recipe is not None:
        return apply_overrides(recipe_named(args.recipe), args.set)
    from imagesprint.runs.local_run import local_run

    with local_run(args.run_directory, console) as directory:
        file = directory / "recipe.toml"
        if not file.is_file():
            raise UsageError(f"there is no run {directory}: it has no recipe.toml", "name a run directory")
        return load_recipe(file)


def _of_step(recipe: Recipe, step: int, root: "Root") -> tuple[str, list[int]]:
    """The variant and the sample ids that `step` reads."""
    from imagesprint.loading.sampling import make_sampler
    from imagesprint.recipes.schedule import Schedule

    dataset = root.dataset(root.nearest(recipe.phases[0].source), "train")
    schedule = Schedule(recipe, len(dataset))
    if step > schedule.total_steps:
        raise UsageError(f"--step {step}: the training has {schedule.total_steps} steps", "give one of them")
    sampler = make_sampler(schedule, recipe.seed, dataset.labels if recipe.balance else None)
    ids: list[int] = sampler.batch(step - 1).ids.tolist()
    return root.nearest(schedule.phase(step - 1).source), ids


def _seen(root: "Root", recipe: Recipe, step: int, console: Console) -> "list[Seen]":
    """What the network saw in `step`; where a sample is damaged nothing, and a warning."""
    from imagesprint.training.transforms import seen_in_step  # torch: not for --ids

    try:
        return seen_in_step(root, recipe, step - 1)
    except DataError as error:
        console.warn(f"only the samples are shown, not what the network saw: {error.what}")
        return []
