import io
from pathlib import Path

import pytest

from imagesprint.console import Console, duration


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
