"""Every outcome of a command line ends in the right words and exit code."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from imagesprint.cli import main as main_module
from imagesprint.cli.main import VERBS, main
from imagesprint.cli.parsing import Parser, add_verb
from imagesprint.console import Console
from imagesprint.errors import CheckError, DataError

NAME = "\x1b[2Jno\nerror: \u202e" + os.fsdecode(b"\xff")

FAILURES: dict[str, BaseException] = {
    "data": DataError("shard 3 is cut short at byte 7", "prepare it again"),
    "check": CheckError("96.1 is below 97", "train longer"),
    "interrupt": KeyboardInterrupt(),
    "bug": RuntimeError("two\nlines"),
    "exit": SystemExit(143),
    "name": DataError(f"{NAME} is damaged", f"delete {NAME}"),
}


def _run(args: argparse.Namespace, console: Console) -> int:
    console.line("working")
    if args.failure in FAILURES:
        raise FAILURES[args.failure]
    return 0


def _add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    parser = add_verb(subparsers, "fail", "Fails as told.", "  imagesprint fail data", _run)
    parser.add_argument("failure")


@pytest.fixture
def _verb_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb of its own module, as the real ones are."""
    module = ModuleType("imagesprint.cli.fail")
    vars(module)["add_parser"] = _add_parser
    monkeypatch.setitem(sys.modules, "imagesprint.cli.fail", module)
    monkeypatch.setitem(main_module.VERBS, "fail", "fails as told")


def test_every_verb_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        assert "examples:\n  imagesprint " in capsys.readouterr().out


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {verb} " in out for verb in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("imagesprint ")


@pytest.mark.parametrize(
    ("argv", "error", "hint"),
    [
        ([], "no verb given", "imagesprint --help"),
        (["recepies"], "unknown verb 'recepies'", "did you mean recipes?"),
        (["qqq"], "unknown verb 'qqq'", "`imagesprint --help` lists the verbs"),
        (["--hlep"], "unknown flag '--hlep'", "did you mean --help?"),
        (["recipes"], "no command given", "imagesprint recipes --help"),
        (["recipes", "shwo"], "unknown command 'shwo'", "did you mean show?"),
        (["recipes", "show"], "NAME", "imagesprint recipes show --help"),
        (["recipes", "show", "small", "--tolm"], "unknown flag '--tolm'", "did you mean --toml?"),
        (["recipes", "show", "small", "--num=3"], "unknown flag '--num'", "--help"),
        (["recipes", "show", "small", "extra"], "unexpected argument 'extra'", "--help"),
        (["recipes", "show", "small", "--num-train", "many"], "many", "--help"),
        (["--quiet", "recipes", "list"], "--quiet stands before the verb", "after"),
    ],
)
def test_wrong_usage(argv: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]


def test_wrong_usage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recepies", "--json"]) == 2
    out, err = capsys.readouterr()
    value = json.loads(out)
    assert (value["error"], value["exit_code"], err) == ("unknown verb 'recepies'", 2, "")
    assert "recipes" in value["hint"]


@pytest.mark.usefixtures("_verb_that_fails")
@pytest.mark.parametrize(
    ("failure", "code", "first", "hint"),
    [
        ("none", 0, "working", ""),
        ("data", 1, "error: shard 3 is cut short at byte 7", "hint: prepare it again"),
        ("check", 3, "error: 96.1 is below 97", "hint: train longer"),
        ("interrupt", 130, "error: interrupted", ""),
        ("bug", 1, "error: RuntimeError: two lines", "--verbose"),
        ("exit", 143, "working", ""),
    ],
)
def test_outcomes(failure: str, code: int, first: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", failure]) == code
    err = capsys.readouterr().err
    assert first in err.splitlines()
    assert hint in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("_verb_that_fails")
@pytest.mark.parametrize(("failure", "code"), [("data", 1), ("check", 3), ("interrupt", 130), ("bug", 1)])
def test_a_failure_as_json_is_one_object(failure: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", failure, "--json"]) == code
    value = json.loads(capsys.readouterr().out)
    assert set(value) == {"error", "hint", "exit_code"}
    assert value["exit_code"] == code


@pytest.mark.usefixtures("_verb_that_fails")
def test_verbose_shows_the_traceback_and_quiet_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fail", "bug", "--verbose"])
    assert "Traceback" in capsys.readouterr().err
    main(["fail", "data", "--quiet"])
    assert "working" not in capsys.readouterr().err


@pytest.mark.usefixtures("_verb_that_fails")
def test_a_json_after_the_double_dash_is_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "--", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "imagesprint", "recipes", "list"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("recipes list >/dev/full", 1, "error: cannot read or write standard output: No space left on device"),
        ("--help >/dev/full", 1, "error: cannot read or write standard output: No space left on device"),
        (
            "recipes show small --toml >/dev/full",
            1,
            "error: cannot read or write standard output: No space left on device",
        ),
        ("recipes list >&-", 0, ""),
        ("recipes lst >&-", 2, "error: unknown command 'lst'"),
        ("recipes lst --json >/dev/full", 2, ""),
        ("recipes lst 2>/dev/full", 2, ""),
        ("recipes lst 2>&-", 2, ""),
    ],
)
def test_streams_that_are_full_or_closed(redirected: str, code: int, said: str) -> None:
    words = f"exec {sys.executable} -m imagesprint {redirected}"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.partition("\n")[0]) == (code, said)


def test_ascii_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ["--help", *(f"{verb} --help" for verb in VERBS), "recipes list", "recipes show small"]:
        data = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
        assert main(verb.split()) == 0
        assert data.getvalue().isascii()


@pytest.mark.usefixtures("_verb_that_fails")
@pytest.mark.parametrize("flag", ["", "--verbose", "--json"])
def test_names_in_errors_are_text(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "name", *filter(None, [flag])]) == 1
    out, err = capsys.readouterr()
    if flag == "--json":
        assert json.loads(out)["error"] == f"{NAME} is damaged"
        return
    shown = r"\x1b[2Jno\nerror: \u202e\udcff"
    assert err.endswith(f"\nerror: {shown} is damaged\nhint: delete {shown}\n")
    assert "\x1b" not in err
    assert ("Traceback" in err) == (flag == "--verbose")


@pytest.mark.parametrize("start", ["script", "-m"])
def test_no_process_that_is_started_imports_from_the_current_folder(photos: Path, tmp_path: Path, start: str) -> None:
    """The script is what pip makes of an entry point: only its own folder is on the path; `-m` puts this one there."""
    script, here = tmp_path / "bin" / "imagesprint", tmp_path / "here"
    script.parent.mkdir()
    script.write_text(
        "import sys\nfrom imagesprint.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    for module in ("random", "socket", "pickle", "threading", "json", "numpy", "torch/__init__"):
        (here / module).parent.mkdir(parents=True, exist_ok=True)
        (here / module).with_suffix(".py").write_text("raise RuntimeError('the wrong one')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *([script] if start == "script" else ["-m", "imagesprint"]), *words]
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)

    done = run("prepare", str(photos), "root", "--variants", "32", "--shards", "2", "--workers", "2")
    assert done.returncode == 0, done.stderr
    done = run("train", "small", "--data", "no", "--output", "run", "--processes", "2")
    assert done.stderr.startswith("error: there is no folder no\n"), done.stderr
    assert done.returncode == 2


def test_ctrl_c_from_outside(tmp_path: Path) -> None:
    # 10 million steps: long enough to be interrupted in the middle.
    recipe = tmp_path / "long.toml"
    row = "steps = [0, 10000000], lr = [1, 1], method = 'constant', batch_size = 1, micro_batch = 1, image_size = 8"
    recipe.write_text(f"name = 'long'\nphases = [{{ {row} }}]\n", encoding="utf-8")
    csv = tmp_path / "s.csv"
    command = [sys.executable, "-m", "imagesprint", "recipes", "show", str(recipe), "--num-train", "9"]
    process = subprocess.Popen([*command, "--schedule", str(csv)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (csv.exists() and csv.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "error: interrupted\n"
