"""`imagesprint recipes list | show | diff`."""

import argparse
from pathlib import Path
from typing import Any

from imagesprint.cli.output import show, table, write_csv
from imagesprint.cli.parsing import Parser, add_verb, positive, recipe_named
from imagesprint.console import Console, printable, write_result
from imagesprint.errors import UsageError
from imagesprint.recipes.library import builtin_names, builtin_notes, differences, load_recipe
from imagesprint.recipes.recipe import Phase, Recipe, kinds
from imagesprint.recipes.schedule import Row, Schedule
from imagesprint.recipes.serialization import to_dict, to_toml

EXAMPLES = """\
  imagesprint recipes list
  imagesprint recipes show minutes104 --num-train 1281167 --schedule steps.csv
  imagesprint recipes show small --toml > my.toml     # then: imagesprint train my.toml …
  imagesprint recipes diff classic baseline90"""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb and the three it groups."""
    group = add_verb(subparsers, "recipes", "List, show and compare recipes.", EXAMPLES, None)
    inner = group.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    add_verb(inner, "list", "The built-in recipes.", "  imagesprint recipes list --json", run_list)

    one = add_verb(inner, "show", "One recipe as a table, a .toml file or a schedule.", EXAMPLES, run_show)
    one.add_argument("recipe", metavar="NAME", help="a built-in's name or a .toml file")
    one.add_argument("--toml", action="store_true", help="print it as TOML, to edit and train from")
    one.add_argument("--num-train", type=positive, metavar="N", help="training images: shows the steps")
    one.add_argument("--schedule", type=Path, metavar="FILE.csv", help="write one row a step; needs --num-train")

    two = add_verb(inner, "diff", "What differs between two recipes.", EXAMPLES, run_diff)
    two.add_argument("a", metavar="A", help="a built-in's name or a .toml file")
    two.add_argument("b", metavar="B", help="another")


def run_list(args: argparse.Namespace, _: Console) -> int:
    """Print each built-in's name, size and purpose."""
    rows = []
    for name in builtin_names():
        recipe, notes = load_recipe(name), builtin_notes(name)
        rows.append({"name": name, "model": recipe.model, "length": _length(recipe), "about": notes.splitlines()[0]})
    show(args, rows, table(["name", "model", "length", "about"], [list(row.values()) for row in rows]))
    return 0


def run_show(args: argparse.Namespace, console: Console) -> int:
    """Print one recipe, with its steps where the number of images is given; write the schedule's file."""
    if args.toml and args.json:
        raise UsageError("--toml and --json exclude each other", "leave one out")
    if args.schedule is not None and args.num_train is None:
        raise UsageError("--schedule needs the number of training images", "add --num-train 1281167 for ImageNet")
    recipe = recipe_named(args.recipe)
    schedule = Schedule(recipe, args.num_train) if args.num_train is not None else None
    if args.schedule is not None and schedule is not None:
        _write_schedule(schedule, args.schedule)
        console.line(f"{schedule.total_steps:,} steps written to {args.schedule}")
    if args.toml:
        write_result(to_toml(recipe))
        return 0
    value: dict[str, Any] = {"recipe": to_dict(recipe)}
    if schedule is not None:
        value["schedule"] = _schedule_facts(schedule)
    show(args, value, _as_text(recipe, schedule))
    return 0


def run_diff(args: argparse.Namespace, _: Console) -> int:
    """Print every key in which two recipes differ, but for their names."""
    a, b = recipe_named(args.a), recipe_named(args.b)
    found = [difference for difference in differences(a, b) if difference.key != "name"]
    value = {"a": a.name, "b": b.name, "differences": found}
    rows = [(item.key, _value_text(item.a), _value_text(item.b)) for item in found]
    same = printable(f"{a.name} and {b.name} do not differ")
    show(args, value, table(["", a.name, b.name], rows) if found else same)
    return 0


def _schedule_facts(schedule: Schedule) -> dict[str, Any]:
    return {
        "num_train": schedule.num_train,
        "total_steps": schedule.total_steps,
        "epochs": schedule.epochs_done(schedule.total_steps),
        "boundaries": [0, *(end for _, end in schedule.bounds)],
    }


def _write_schedule(schedule: Schedule, path: Path) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            write_csv(file, Row._fields, schedule.table())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "choose another file for --schedule") from None


def _as_text(recipe: Recipe, schedule: Schedule | None) -> str:
    lines = [printable(f"{recipe.name}: {recipe.model}, {_length(recipe)}")]
    if recipe.name in builtin_names() and load_recipe(recipe.name) == recipe:
        lines += ["", builtin_notes(recipe.name)]
    lines += ["", _phase_table(recipe, schedule)]
    if schedule is not None:
        epochs = schedule.epochs_done(schedule.total_steps)
        images = f"{schedule.num_train:,} images"
        lines += ["", f"{schedule.total_steps:,} steps, {epochs:.4g} epochs of {images}"]
    return "\n".join([*lines, "", _settings_table(recipe)])


def _phase_table(recipe: Recipe, schedule: Schedule | None) -> str:
    unit = "steps" if recipe.phases[0].epochs is None else "epochs"
    header = ["phase", unit, "lr", "method", "batch", "micro", "px", "source", "min_area", "freeze"]
    rows = [[i, *_phase_cells(phase)] for i, phase in enumerate(recipe.phases)]
    if all(phase.freeze == "none" for phase in recipe.phases):
        header, rows = header[:-1], [row[:-1] for row in rows]
    if schedule is not None and unit == "epochs":
        header.insert(2, "steps")
        for row, bounds in zip(rows, schedule.bounds, strict=True):
            row.insert(2, _range_text(bounds))
    return table(header, rows)


def _phase_cells(phase: Phase) -> list[object]:
    first, last = phase.lr
    lr = f"{first:g}" if first == last else f"{first:g} → {last:g}"
    span = _range_text(phase.epochs or phase.steps or (0, 0))
    batch = f"{phase.micro_batches} × {phase.micro_batch}" if phase.micro_batch else "auto"
    return [
        span,
        lr,
        phase.method,
        phase.batch_size,
        batch,
        phase.image_size,
        phase.source,
        phase.min_area,
        phase.freeze,
    ]


def _settings_table(recipe: Recipe) -> str:
    defaults = Recipe(name="", phases=())
    rows = []
    for key in kinds(Recipe):
        value, default = getattr(recipe, key), getattr(defaults, key)
        if key != "name":
            rows.append((key, _value_text(value), "" if value == default else f"default {_value_text(default)}"))
    return table(["setting", "value", ""], rows)


def _length(recipe: Recipe) -> str:
    last = recipe.phases[-1]
    return f"{last.epochs[1]} epochs" if last.epochs is not None else f"{(last.steps or (0, 0))[1]:,} steps"


def _range_text(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]:,}–{bounds[1]:,}"


def _value_text(value: Any) -> str:
    """A field's value for a person; a whole row as its cells."""
    if value is None:
        return "—"
    if isinstance(value, Phase):
        return " ".join(str(cell) for cell in _phase_cells(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_value_text(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value)  # exact: rounded, two that differ could look alike
    return str(value) if value != "" else "none"
