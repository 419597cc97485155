import fcntl
import io
import os
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagesprint.console import Console, Progress, duration, printable, printable_lines, width


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_go_to_the_stream_and_the_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.log_to(tmp_path / "log.txt")
    console.line("one")
    console.warn("two")
    console.close()
    assert console.warnings == ["two"]
    assert stream.getvalue() == "one\nwarning: two\n"
    assert [line.split(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "one",
        "warning: two",
    ]


def test_quiet_keeps_warnings() -> None:
    stream = io.StringIO()
    console = Console(stream, quiet=True)
    console.line("one")
    console.live("two")
    console.warn("three")
    assert stream.getvalue() == "warning: three\n"


def test_the_living_line_is_redrawn_in_place_on_a_terminal_and_gives_way_to_lines() -> None:
    stream = Terminal()
    console = Console(stream)
    console.live("10%")
    console.line("a line")
    assert stream.getvalue() == "\r\x1b[2K10%\r\x1b[2Ka line\n"


def test_elsewhere_the_living_line_is_plain_and_rare() -> None:
    stream = io.StringIO()
    console = Console(stream)
    for percent in range(100):
        console.live(f"{percent}%")
    console.live("100%", last=True)
    assert stream.getvalue() == "0%\n100%\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (187, "3:07 min"), (3723, "1:02:03 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 猫 🐈‍⬛ עברית a\u200db", None),  # text of any script, and what joins its characters, stays
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\nb\r\tc\x00\x7f", r"a\nb\r\tc\x00\x7f"),
        ("\x9b31m\x85", r"\x9b31m\x85"),  # controls of eight bits
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("gpj.\u202etxt\u202c \u2066x\u2069", r"gpj.\u202etxt\u202c \u2066x\u2069"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    ],
)
def test_what_could_act_instead_of_being_read_is_shown_as_an_escape(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)
    assert printable_lines(f"{text}\n{text}").count("\n") == 1 + 2 * text.count("\n")


def test_no_text_from_outside_acts_on_the_terminal_or_in_the_log(tmp_path: Path) -> None:
    name = "\x1b[2Jcats\nwarning: dogs\u202e" + os.fsdecode(b"\xff")
    shown = r"\x1b[2Jcats\nwarning: dogs\u202e\udcff"
    stream = Terminal()
    console = Console(stream)
    console.log_to(tmp_path / "log.txt")
    console.line(name)
    console.warn(name)
    console.live(name)
    console.close()
    assert stream.getvalue() == f"{shown}\nwarning: {shown}\n\r\x1b[2K{shown}\r\x1b[2K"
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition(" ")[2] for line in lines] == [shown, f"warning: {shown}"]


def test_a_note_of_several_lines_keeps_them(tmp_path: Path) -> None:
    console = Console(io.StringIO())
    console.log_to(tmp_path / "log.txt")
    console.note("Traceback\n  \x1b[2J")
    assert (tmp_path / "log.txt").read_text().partition(" ")[2] == "Traceback\n  \\x1b[2J\n"


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("é", 1), ("e\u0301", 1), ("猫", 2), ("ｱ", 1), ("🐈", 2)])
def test_width(text: str, columns: int) -> None:
    assert width(text) == columns


@pytest.fixture
def pty() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """The two ends of a terminal: what a person sees comes out of the first, the second is a stream to it."""
    screen, end = os.openpty()
    with open(end, "w", encoding="utf-8") as stream:
        yield screen, stream
    os.close(screen)


def shown_on(pty: tuple[int, io.TextIOWrapper], columns: int) -> Console:
    """A console on `pty`, which gets so many columns."""
    fcntl.ioctl(pty[0], termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return Console(pty[1])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (12, "step 9/99 …"),
        (20, "9  ETA 1 s"),
        (30, "step 9/99 …  ETA 1 s"),
        (40, "step 9/99 …  ETA 1 s  top-1 3%"),
        (44, "step 9/99 …  ETA 1 s  top-1 3%  猫猫猫猫猫"),
        (200, "step 9/99 …  ETA 1 s  top-1 3%  猫猫猫猫猫  x"),
    ],
)
def test_the_living_line_takes_the_columns_of_its_terminal(
    pty: tuple[int, io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch, columns: int, expected: str
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console = shown_on(pty, columns)
    short = "" if columns == 12 else "9  ETA 1 s"
    console.live("step 9/99 …  ETA 1 s", "top-1 3%", "猫猫猫猫猫", "x", short=short)
    assert os.read(pty[0], 1000).decode() == f"\r\x1b[2K{expected}"


def test_no_wide_character_sticks_out(pty: tuple[int, io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    shown_on(pty, 9).live("猫" * 9)
    assert os.read(pty[0], 1000).decode() == "\r\x1b[2K" + "猫" * 4


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_the_progress_of_millions_of_images_fits(
    pty: tuple[int, io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    progress = Progress(shown_on(pty, columns), "preparing")
    progress.begin(1_331_167, 0)
    progress.add(1_181_167)
    text = os.read(pty[0], 1000).decode().removeprefix("\r\x1b[2K")
    assert len(text) < columns
    assert text.startswith("preparing  ")
    assert "  89%  ETA 0 s" in text
    assert ("1,181,167/1,331,167 images" in text) == (columns >= 60)
    assert ("images/s" in text) == (columns >= 80)


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_terminal_or_pipe_that_is_gone_ends_no_work(kind: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty() if kind == "terminal" else os.pipe()
    with open(theirs, "w", encoding="utf-8") as stream:
        console = Console(stream)
        console.log_to(tmp_path / "log.txt")
        console.live("one")
        os.close(ours)
        for _ in range(2):
            console.line("two")
            console.live("three", last=True)
        console.close()
        stream.flush()  # as Python does at exit
    assert (tmp_path / "log.txt").read_text().count("two") == 2
