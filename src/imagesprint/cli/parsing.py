"""The argument parser all verbs share: exact flags, errors of the hierarchy, worked examples in every help."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from imagesprint.console import Console, write_result
from imagesprint.errors import RecipeError, UsageError, needing
from imagesprint.storage.cache import FOLDER_VARIABLE, LIMIT_VARIABLE, parse_size
from imagesprint.storage.url import Url, parse_place

if TYPE_CHECKING:
    from imagesprint.recipes.recipe import Recipe

COMMON_FLAGS = ("--json", "--quiet", "--verbose")

Run = Callable[[argparse.Namespace, Console], int]


class Parser(argparse.ArgumentParser):
    """Raises UsageError, with a hint, where argparse prints and exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # No abbreviations: a flag added later must not change what a script's `--num` meant.
        kwargs.update(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self._words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self._usage())

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002 (as argparse calls it)
        write_result(self.format_help())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = args or ()
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # Caught by the innermost parser, which knows the flags that were meant.
            raise self._unexpected(unknown[0])
        return parsed, unknown

    def _unexpected(self, word: str) -> UsageError:
        flag = word.partition("=")[0]
        usage = self._usage()
        if not flag.startswith("-"):
            return UsageError(f"unexpected argument {word!r}", usage)
        flags = [] if os.path.lexists(word) else list(self._option_string_actions)
        return UsageError(f"unknown flag {flag!r}", suggest(flag, flags, usage))

    def _usage(self) -> str:
        """A hint: what was taken for flags may be files."""
        dashed = [word for word in self._words if word.startswith("-") and word != "-" and os.path.lexists(word)]
        if dashed and "--" not in self._words:
            return f"put -- before names that begin with a dash, as {dashed[0]}"
        return f"`{self.prog} --help` shows the usage"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            name = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest).lower()
            hint = suggest(str(value), known, f"choose one of {', '.join(known)}")
            raise UsageError(f"unknown {name} {str(value)!r}", hint)


def suggest(word: str, known: list[str], otherwise: str) -> str:
    """A hint: `did you mean NAME?` where one of `known` is near `word`, then `otherwise`."""
    from imagesprint.recipes.recipe import did_you_mean  # only a mistake needs it

    return f"{did_you_mean(word, known)} {otherwise}".lstrip()


def add_verb(
    subparsers: "argparse._SubParsersAction[Parser]", name: str, description: str, examples: str, run: Run | None
) -> Parser:
    """Add the verb `name`, whose help ends in `examples` and which is carried out by `run`; its parser.

    `run(args, console)` returns the exit code. A verb that only groups others (`recipes list`) passes None.
    """
    parser = subparsers.add_parser(name, description=description, epilog=f"examples:\n{examples}")
    # No defaults here: a nested parser's default would undo the flag given before it (main.py holds them).
    common = parser.add_argument_group("common flags")
    add = common.add_argument
    add("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON value; errors too")
    add("--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress, only results and warnings")
    add("--verbose", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def price(text: str) -> float:
    """An argparse type: what an hour costs, in any currency."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no price of an hour")
    return value


def add_device_flags(parser: Parser) -> None:
    """Add --device and --processes."""
    add_device_flag(parser)
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="local ranks, one a GPU; default 1")


def add_device_flag(parser: Parser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )


def add_compile_flag(parser: Parser) -> None:
    """Add --compile, whose values `training.step.wants_compiled` takes."""
    parser.add_argument(
        "--compile", choices=("auto", "on", "off"), default="auto", help="torch.compile; default: on a GPU"
    )


def add_set_flag(parser: Parser) -> None:
    """Add --set, whose values `recipes.serialization.apply_overrides` takes."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe: seed=3, phases.2.lr=0.1,0.01",
    )


class _Setting(argparse.Action):
    """Puts the flag's value, once `type` has passed it, into the environment variable `const`, for every process."""

    def __call__(self, _: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *__: object) -> None:
        os.environ[str(self.const)] = value
        setattr(namespace, self.dest, value)


def add_cache_flags(parser: Parser) -> None:
    """Add --cache and --cache-limit, which `storage.cache` reads from the environment, in ranks and helpers, too."""
    add = parser.add_argument_group("where data or runs are named by a URL (s3://, hdfs://, …)").add_argument
    add("--cache", action=_Setting, const=FOLDER_VARIABLE, metavar="DIR", help="kept here; ~/.cache/imagesprint")
    add(
        "--cache-limit",
        action=_Setting,
        const=LIMIT_VARIABLE,
        type=_size,
        metavar="SIZE",
        help="of the shards kept there: 300GB; default: what is free, but for a reserve",
    )


def _size(text: str) -> str:
    parse_size(text)
    return text


def recipe_named(text: str) -> "Recipe":
    """The recipe that RECIPE on a command line names: a built-in's, that of a .toml file, or of one at a URL.

    Raises RecipeError, StorageError.
    """
    from imagesprint.recipes.library import load_recipe
    from imagesprint.recipes.serialization import from_toml

    place = parse_place(text)
    if not isinstance(place, Url):
        return load_recipe(text if "://" not in text else place)
    from imagesprint.storage.store import open_store

    store = open_store(place)
    if store.stat("") is None:
        raise RecipeError(f"cannot read the recipe {place}: there is no such file", "name RUN/recipe.toml")
    try:
        content = store.read("").decode("utf-8-sig")
    except ValueError:
        raise RecipeError(f"{place}: not a text file in UTF-8", "save it as UTF-8") from None
    return from_toml(content, text)


def check_plot(args: argparse.Namespace) -> None:
    """Check that --plot can be drawn and written: better known now than after the work. Raises UsageError."""
    if args.plot is not None and not args.plot.parent.is_dir():
        raise UsageError(f"cannot write {args.plot}: there is no folder {args.plot.parent}", "choose another --plot")
    if args.plot is not None:
        with needing("plots"):
            import matplotlib  # noqa: F401
