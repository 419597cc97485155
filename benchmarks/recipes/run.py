"""Variants of a recipe against one another: trained in turns at equal computation, and written up with their spread.

    python benchmarks/recipes/run.py TABLE.toml --data flowers=ROOT caltech99=ROOT --output FOLDER --seeds 3 --threads 1

TABLE.toml names the variants, each by the words of a `train` command, the first being what the others are held against;
`plain:NAME` in front takes the settings of that name in plain.py instead of ours:

    [variants]
    base = ["small"]
    average = ["small", "ema_decay=0.99"]
    torchvision = ["plain:torchvision", "small"]

Words that all begin with may stand before it instead, as all = ["small"].

Each run is an `imagesprint train` (or a plain.py) into FOLDER/SET/VARIANT-SEED: seed by seed, in each set by set and in
that variant by variant, so that wherever it is cut off the table is fair. The same command goes on where it stopped,
and reads what is finished. After each run FOLDER/results.md is written anew. What a variant computes is counted before
anything is trained (flops.py says what counts); one that computes over 0.5% more than the first is refused.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flops import recipe_flops
from plain import RESULT, SETTINGS, plain_form, trained

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.files import write_text
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import apply_overrides
from imagesprint.records.dataset import open_root
from imagesprint.report.repetitions import FEW, Spread, welch_margin
from imagesprint.runs.directory import RunDirectory, check_run, resolve_precision

MOST_FLOPS = 1.005  # of those of the first variant
PLAIN = "plain:"
FIGURES = {"top1": "top-1, %", "mean_class_accuracy": "mean class accuracy, %"}


@dataclass(frozen=True)
class Variant:
    """A line of the table: `settings` names the row of plain.SETTINGS, or is empty for a training of ours."""

    name: str
    settings: str
    words: tuple[str, ...]  # the recipe, then what is changed

    @property
    def recipe(self) -> Recipe:
        """What is trained or, for a plain training, the recipe of its network, epochs, pixels and evaluation."""
        recipe = apply_overrides(load_recipe(self.words[0]), self.words[1:])
        return plain_form(recipe, SETTINGS[self.settings]) if self.settings else recipe

    def command(self, root: str, output: Path, seed: int, threads: int) -> list[str]:
        changes = [part for word in (*self.words[1:], f"seed={seed}") for part in ("--set", word)]
        given = ["--data", root, "--output", str(output)]
        if self.settings:
            plain = [str(Path(__file__).with_name("plain.py")), self.settings, self.words[0]]
            own = [f"--seed={seed}", f"--threads={threads}"]
            return [sys.executable, *plain, *changes[:-2], *given, *own]
        train = ["-m", "imagesprint", "train", self.words[0], *changes, *given]
        return [sys.executable, *train, "--keep", "last:1", "--quiet"]


@dataclass(frozen=True)
class Found:
    """What a finished run came to."""

    top1: float
    mean_class_accuracy: float
    wall_seconds: float


def read_table(path: Path) -> list[Variant]:
    """Return the variants of a table. Raises UsageError where it has none or one is no list of words."""
    try:
        content: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}", "name a TOML file with a [variants] table") from None
    rows, shared = content.get("variants"), _words("all", content.get("all", []))
    if not isinstance(rows, dict) or not rows:
        raise UsageError(f"{path} has no [variants]", 'give it one, with lines such as base = ["small"]')
    return [_variant(name, shared, _words(name, words)) for name, words in rows.items()]


def _words(name: str, words: Any) -> list[str]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{name} is {words!r}", 'write a list of texts: a recipe and changes, ["small", "seed=1"]')
    return words


def _variant(name: str, shared: list[str], words: list[str]) -> Variant:
    plain = [word for word in words[:1] if word.startswith(PLAIN)]
    own = (*shared, *words[len(plain) :])
    if not own:
        raise UsageError(f"{name} is {words!r}", 'write a list of texts: a recipe and changes, ["small", "seed=1"]')
    settings = plain[0].removeprefix(PLAIN) if plain else ""
    if plain and settings not in SETTINGS:
        raise UsageError(f"{name} is {words!r}", f"write plain:NAME and a recipe; NAME is one of {', '.join(SETTINGS)}")
    return Variant(name, settings, own)


def read_sets(entries: list[str], seeds: int) -> dict[str, str]:
    """Return the ROOT of each set. Raises UsageError where one is not named, or there is nothing to train."""
    sets = dict(entry.partition("=")[::2] for entry in entries)
    unnamed = next((entry for entry in entries if not all(entry.partition("=")[::2])), None)
    if unnamed is not None:
        raise UsageError(f"--data: {unnamed!r} is no SET=ROOT", "name the set, such as flowers=ROOT")
    if seeds < 1:
        raise UsageError(f"--seeds: {seeds} are none", "give at least 1, and 3 to see their spread")
    return sets


def count_flops(variants: list[Variant], root: str) -> list[float]:
    """Return what each variant computes on the training images of `root`."""
    opened = open_root(root)
    num_train = len(opened.dataset(opened.variants[0], "train"))
    return [recipe_flops(variant.recipe, num_train, len(opened.classes)) for variant in variants]


def check_flops(variants: list[Variant], flops: list[float], any_flops: bool) -> None:
    """Tell what each variant computes beside the first. Raises UsageError where one does too much."""
    for variant, each in zip(variants, flops, strict=True):
        print(f"{variant.name}: {each / 1e12:,.4g} TFLOP, {each / flops[0]:.4f} of {variants[0].name}", file=sys.stderr)
    dear = [variant.name for variant, each in zip(variants, flops, strict=True) if each > MOST_FLOPS * flops[0]]
    if dear and not any_flops:
        raise UsageError(
            f"{', '.join(dear)}: more than {MOST_FLOPS:g} of the computation of {variants[0].name}",
            "shorten them, or compare them all the same with --any-flops: the table says what each computes",
        )


def found(variant: Variant, run: Path, seed: int) -> Found | None:
    """Return what the run at `run` came to; None where it is not finished. Raises UsageError where it is of another
    recipe or other settings.
    """
    recipe = replace(variant.recipe, seed=seed)
    if not variant.settings:
        check_run(run, resolve_precision(recipe, RunDirectory(run), recipe.precision), "auto")
    file = run / RESULT  # of this name for both
    if not file.is_file():
        return None
    row = json.loads(file.read_text(encoding="utf-8"))
    if variant.settings and row["trained"] != trained(recipe, SETTINGS[variant.settings]):
        raise UsageError(f"{run} was trained otherwise than {variant.name} is now", "choose another --output")
    return Found(row["top1"], row["mean_class_accuracy"], row["wall_seconds"])


def train_all(
    variants: list[Variant], sets: dict[str, str], output: Path, seeds: int, threads: int, flops: dict[str, list[float]]
) -> None:
    """Train what is not finished yet. Raises UsageError where a run fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    for seed in range(seeds):
        for name, root in sets.items():
            for variant in variants:
                run = output / name / f"{variant.name}-{seed}"
                if found(variant, run, seed) is None:
                    done = subprocess.run(
                        variant.command(root, run, seed, threads),
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        check=False,
                    )
                    if done.returncode:
                        raise UsageError(f"{run} ended with exit code {done.returncode}", "what it said stands above")
                write_text(output / "results.md", report(variants, sets, output, seeds, flops))
                print(f"{run}: {found(variant, run, seed)}", file=sys.stderr, flush=True)


def report(
    variants: list[Variant], sets: dict[str, str], output: Path, seeds: int, flops: dict[str, list[float]]
) -> str:
    """Return the tables in Markdown, of what is finished."""
    parts = [
        "Mean ± standard deviation of a sample over the seeds; behind it the difference to the first line with its 95% "
        "interval (Welch), in bold where that is more than the spread explains. FLOP are those of matrix products and "
        "convolutions, forward, backward and optimizer, beside the first line's. Seconds are without start-up.",
    ]
    for name in sets:
        rows = {
            variant.name: [
                result
                for seed in range(seeds)
                if (result := found(variant, output / name / f"{variant.name}-{seed}", seed)) is not None
            ]
            for variant in variants
        }
        header = ["variant", "runs", *FIGURES.values(), "FLOP", "s", "words"]
        lines = [header, ["---"] * len(header)]
        for variant, each in zip(variants, flops[name], strict=True):
            if rows[variant.name]:
                lines.append(_line(variant, rows[variants[0].name], rows[variant.name], each / flops[name][0]))
        parts.append(f"## {name}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _line(variant: Variant, firsts: list[Found], own: list[Found], flops: float) -> list[str]:
    figures = [_figure([getattr(a, key) for a in firsts], [getattr(b, key) for b in own]) for key in FIGURES]
    seconds = Spread.of([each.wall_seconds for each in own]).mean
    words = " ".join([PLAIN + variant.settings, *variant.words] if variant.settings else variant.words)
    return [variant.name, str(len(own)), *figures, f"{flops:.4f}", f"{seconds:,.0f}", f"`{words}`"]


def _figure(firsts: list[float], own: list[float]) -> str:
    """The mean and spread of `own`, and by how much it is above that of `firsts`, unless both are the same runs."""
    spread = Spread.of(own)
    text = spread.text(".2f")
    if firsts == own or not firsts:
        return text
    first = Spread.of(firsts)
    difference, margin = spread.mean - first.mean, welch_margin(first, spread)
    if margin is None:
        return f"{text} ({difference:+.2f})"
    said = f"{difference:+.2f} ± {margin:.2f}"
    if abs(difference) > margin:
        said = f"**{said}**"
    few = ", few runs" if min(first.n, spread.n) < FEW else ""
    return f"{text} ({said}{few})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", nargs="+", required=True, metavar="SET=ROOT")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N − 1; default 3")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each run; default 1")
    parser.add_argument("--any-flops", action="store_true", help="train variants that compute more, too")
    args = parser.parse_args()
    try:
        sets = read_sets(args.data, args.seeds)
        variants = read_table(args.table)
        flops = {name: count_flops(variants, root) for name, root in sets.items()}
        for name, counted in flops.items():
            print(name, file=sys.stderr)
            check_flops(variants, counted, args.any_flops)
        args.output.mkdir(parents=True, exist_ok=True)
        train_all(variants, sets, args.output, args.seeds, args.threads, flops)
    except ImagesprintError as error:
        print(f"error: {error.what}\nhint: {error.hint}", file=sys.stderr)
        return 2
    print((args.output / "results.md").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
