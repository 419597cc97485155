"""The documents: what they point to exists, and the commands they show are ones the command line takes."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from imagesprint.cli import main

PROJECT = Path(__file__).parents[1]
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
ARCHITECTURE = (PROJECT / "docs/architecture.md").read_text(encoding="utf-8")

_COMMAND = re.compile(r"^ {4,}(imagesprint [a-z].*)$", re.MULTILINE)


def commands() -> list[str]:
    """Return every command line that a document or a verb's help shows, without its comment."""
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    for verb in main.VERBS:
        texts.append("  " + getattr(importlib.import_module(f"imagesprint.cli.{verb}"), "EXAMPLES", ""))
    found = [match for text in texts for match in _COMMAND.findall(re.sub(r"^ {2}(?=\w)", "    ", text, flags=re.M))]
    return sorted({re.sub(r" +[#>].*", "", command).rstrip() for command in found if not command.endswith("\\")})


def test_commands_are_found() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_shown_commands_parse(command: str) -> None:
    words = shlex.split(command)[1:]
    assert main._parse(words).verb == words[0]


def test_files_named_in_the_documents_exist() -> None:
    folders = ("src", "tests", "benchmarks", "native", "docs")
    files = [path.as_posix() for folder in folders for path in (PROJECT / folder).rglob("*.*")]
    for document in (*DOCUMENTS, PROJECT / "CONTRIBUTING.md"):
        named = re.findall(r"`([a-z_0-9/]+\.(?:py|c|h|svg))(?:::[a-z_0-9]+)?`", document.read_text(encoding="utf-8"))
        missing = [name for name in named if not any(file.endswith(f"/{name}") for file in files)]
        assert not missing, (document.name, missing)


def test_tests_named_in_the_architecture_exist() -> None:
    file = ""
    named = re.findall(r"`(?:([a-z_/]+\.py))?::([a-z_0-9]+)`", ARCHITECTURE)
    assert len(named) > 20
    for path, name in named:
        file = path or file  # "`::name`" is of the file named before it
        assert f"def {name}(" in (PROJECT / "tests" / file).read_text(encoding="utf-8"), (file, name)


def test_code_named_in_the_architecture_exists() -> None:
    named = re.findall(
        r"`([a-z_]+/[a-z_]+\.py|[a-z_]+\.py)` (`[A-Za-z_.]+`(?:, `(?![a-z_]+\.py)[A-Za-z_.]+`)*)", ARCHITECTURE
    )
    assert len(named) > 20
    for path, names in named:
        text = (PROJECT / "src/imagesprint" / path).read_text(encoding="utf-8")
        for name in re.findall(r"[A-Za-z_.]+", names):
            assert re.search(rf"\b{name.rpartition('.')[2]}\b", text), (path, name)
