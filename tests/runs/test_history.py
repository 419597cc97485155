import io
from pathlib import Path

import torch

from imagesprint.console import Console
from imagesprint.files import append_row, read_rows
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import DONE, History, interruptions, last_command
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import Began

DATA = Path("data")
RANKS = Ranks(rank=0, world_size=2, local_rank=0, local_world_size=2, device=torch.device("cpu"))


def test_interruptions_with_their_reasons_and_kills_by_what_is_missing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    history = History(run, Console.silent())
    assert interruptions(run.commands()) == ()
    assert last_command(run) is None
    history.begin(0, RANKS, "native", DATA)
    history.begin(10, RANKS, "native", DATA)  # the one before did not say how it ended
    history.end(13, "stopped by SIGTERM")
    history.begin(13, RANKS, "native", DATA)
    history.end(20, DONE)  # --stop-after
    history.begin(20, RANKS, "native", DATA)
    told = interruptions(run.commands())
    assert [(one.reason, one.step) for one in told] == [("killed", 10), ("stopped by SIGTERM", 13)]
    assert told[0].time is None
    assert told[1].time == read_rows(tmp_path / "commands.jsonl")[2]["ended"]


def test_a_command_is_noted_with_what_it_ran_on_and_what_it_was_warned_of(tmp_path: Path) -> None:
    console = Console(io.StringIO())
    console.warn("of the command before")
    history = History(RunDirectory(tmp_path), console)
    console.warn("pixels differ")
    history.begin(4, RANKS, "native (avx2)", DATA)
    for _ in range(2):
        console.warn("bad record\x1b")
    history.end(8, DONE)
    began, ended = RunDirectory(tmp_path).commands()
    assert isinstance(began, Began)
    assert (began.ranks, began.device, began.threads) == (2, "cpu", RANKS.threads)
    assert (began.decoder, began.warnings) == ("native (avx2)", ("pixels differ",))
    assert began.data == str(Path.cwd() / DATA)
    assert ended.warnings == (r"bad record\x1b",)


def test_rows_of_before_say_less(tmp_path: Path) -> None:
    append_row(tmp_path / "commands.jsonl", {"began": "2026-11-21T10:00:00", "step": 0, "ranks": 2, "host": "here"})
    append_row(tmp_path / "commands.jsonl", {"ended": "2026-11-21T11:00:00", "step": 8, "reason": DONE})
    began, ended = RunDirectory(tmp_path).commands()
    assert isinstance(began, Began)
    assert (began.device, began.decoder, began.data, began.warnings, ended.warnings) == ("", "", "", (), ())
