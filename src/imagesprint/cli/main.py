"""`imagesprint VERB …`: finds the verb, imports its module alone, and turns every outcome into an exit code."""

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence

from imagesprint.cli.parsing import COMMON_FLAGS, Parser, suggest
from imagesprint.console import Console, mute, printable, printable_lines, write_result
from imagesprint.errors import FILE_HINT, HungRankError, ImagesprintError, LostRankError, StoppedError, UsageError
from imagesprint.runs.environment import die_with_launcher, is_launched, is_main_rank
from imagesprint.runs.sagemaker import note_failure

# One module of this package a verb, in the order of a day's work: add_parser(subparsers), run(args, console) -> int.
VERBS = {
    "demo": "the whole way on real images, in minutes on two cores",
    "prepare": "turn folders of images into shards that train fast",
    "index": "make TFRecords that another program wrote trainable",
    "verify": "check every checksum of prepared data",
    "recipes": "list, show and compare recipes",
    "plan": "say what a training will take",
    "train": "train a recipe on prepared data",
    "launch": "train on SLURM, SageMaker or Kubernetes: write the job, and submit it",
    "evaluate": "judge every checkpoint of a run",
    "inspect": "show samples, or those of a step, in one picture",
    "report": "one page on a run",
    "track": "send what a run logs to MLflow, W&B or Trackio",
    "predict": "say what images show",
    "serve": "answer images over HTTP, with a page to try it",
    "export": "write a trained model as ONNX, for torch.export, or as safetensors",
    "doctor": "what is wrong with this machine or a run, and what to do",
    "bench": "measure what this machine does: bench data, step, train, predict",
}

INTERRUPTED = 130  # 128 + SIGINT, as a shell has it
EPILOG = """\
`imagesprint VERB --help` shows a verb's flags with worked examples.
exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check or target not met, 130 Ctrl-C, 143 stopped by a signal
SIGTERM, SIGUSR1 or SIGHUP, and Ctrl-C, end a training once it has saved; the same command goes on from there"""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out the command line `argv` (by default the process's own); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # this process is ours alone: Python processes that it starts do not import from this folder
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    _ready_streams()
    die_with_launcher()
    return _carry_out(words)


def _ready_streams() -> None:
    """Have both streams be there, also where the caller closed them, and the output take characters that it lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for as long as we run)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _carry_out(words: list[str]) -> int:
    try:
        args = _parse(words)
        console = Console(quiet=args.quiet)
        try:
            code: int = args.run(args, console)
        finally:
            console.close()
        return code
    except BrokenPipeError:  # the reader went away (`… | head`): say nothing
        return 1
    except SystemExit as stop:  # after --help or --version
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        return _report(words, "interrupted", "", INTERRUPTED)
    except ImagesprintError as error:
        return _fail(words, error)
    except OSError as error:  # a full disk, a file that may not be read: no bug of ours
        what = f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}"
        return _report(words, what, FILE_HINT, 1)
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "this is a bug in imagesprint or a fault of the machine: --verbose shows where; please report it"
        return _report(words, what, hint, 1)


def _fail(words: list[str], error: ImagesprintError) -> int:
    """Report an error of ours, unless another rank does; returns its exit code."""
    if isinstance(error, LostRankError) and is_launched():
        # The launcher reports the rank that was lost. At once: gloo may abort while it takes connections down.
        os._exit(error.exit_code)
    if isinstance(error, StoppedError) and not is_main_rank():  # all were told the same
        return error.exit_code
    code = _report(words, error.what, error.hint, error.exit_code)
    if isinstance(error, HungRankError):
        os._exit(code)  # Python would wait for that rank before it ends
    return code


def _parse(words: list[str]) -> argparse.Namespace:
    verb = words[0] if words and not words[0].startswith("-") else None
    if verb is not None and verb not in VERBS:
        raise UsageError(f"unknown verb {verb!r}", suggest(verb, list(VERBS), "`imagesprint --help` lists the verbs"))
    if words and words[0] in COMMON_FLAGS:
        raise UsageError(f"{words[0]} stands before the verb", f"put it after: `imagesprint VERB … {words[0]}`")
    parser = Parser(prog="imagesprint", description=_DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", parser_class=Parser)
    for name, summary in VERBS.items():
        if name == verb:
            importlib.import_module(f"imagesprint.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    args = parser.parse_args(words, argparse.Namespace(words=words, json=False, quiet=False, verbose=False, run=None))
    if args.run is None:
        group = "imagesprint" if verb is None else f"imagesprint {verb}"
        raise UsageError(f"{group}: no {'verb' if verb is None else 'command'} given", f"`{group} --help` lists them")
    return args


_DESCRIPTION = "Trains ResNets on ImageNet-scale data, from the files as downloaded to a model in use."


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata  # slow to import

        version = "unknown (not installed)"
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version("imagesprint")
        write_result(f"imagesprint {version}\n")
        parser.exit()


def _report(words: list[str], what: str, hint: str, code: int) -> int:
    """Say what went wrong, where it belongs: one JSON object on stdout with --json, else two lines on stderr."""
    if code < 128:  # not where it was stopped
        note_failure(what, hint)
    flags = words[: words.index("--")] if "--" in words else words
    said = printable_lines(traceback.format_exc()) if "--verbose" in flags else ""
    if "--json" in flags:
        with contextlib.suppress(OSError):  # nobody is there to read it: the exit code still says so
            write_result(json.dumps({"error": what, "hint": hint, "exit_code": code}) + "\n")
    else:
        said += f"error: {printable(what)}\n" + (f"hint: {printable(hint)}\n" if hint else "")
    try:
        sys.stderr.write(said)
    except OSError:
        mute(sys.stderr)
    return code
