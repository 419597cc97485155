"""A job to send somewhere, and commands that stand in for those of a scheduler."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.launching.job import Forecast, Job
from imagesprint.recipes.library import load_recipe
from imagesprint.storage.url import Url

MakeJob = Callable[..., Job]
StandIn = Callable[..., Path]

_PROGRAM = """#!{python} -S
import json, os, sys
call = {{"words": sys.argv[1:], "text": "" if sys.stdin.isatty() else sys.stdin.read()}}
with open({calls!r}, "a") as file: print(json.dumps(call), file=file)
answers = {answers!r}
code, text = next((found for word, found in answers.items() if word in " ".join(call["words"])), (0, ""))
print(text, file=sys.stderr if code else sys.stdout)
sys.exit(code)
"""


@pytest.fixture
def make_job() -> MakeJob:
    """A job on two nodes of four GPUs each, by URLs; with changes of its fields."""

    def make(**changes: Any) -> Job:
        job = Job(
            recipe=load_recipe("minutes104"),
            source="minutes104",
            sets=(),
            data=Url("s3://bucket/imagenet"),
            output=Url("s3://bucket/runs/First try"),
            nodes=2,
            ranks=4,
            on_gpus=True,
            seeds=(),
            forecast=Forecast(("time: 9 min", "cost: 5.09"), 45),
        )
        return replace(job, **changes)

    return make


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts a command NAME first in PATH, which writes what it is given into the file that is returned, a JSON object a
    call, and answers to words as told: an exit code, and what it prints.
    """

    def put(name: str, **answers: tuple[int, str]) -> Path:
        folder, calls = tmp_path / "programs", tmp_path / f"{name}.jsonl"
        folder.mkdir(exist_ok=True)
        program = folder / name
        program.write_text(_PROGRAM.format(python=sys.executable, calls=str(calls), answers=answers))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return calls

    return put


@pytest.fixture
def calls_of() -> Callable[[Path], list[dict[str, Any]]]:
    """What a stand-in was given, call by call."""
    return lambda file: [json.loads(line) for line in file.read_text().splitlines()]
