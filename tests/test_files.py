from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import pytest

from imagesprint.files import append_row, read_rows, write_atomically, write_text


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        write_atomically(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_come_back_and_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    append_row(path, {"step": 1})
    append_row(path, {"step": 2})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    append_row(path, {"step": 4})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 4}\n'
    path.write_text("x" * 10_000)
    append_row(path, {"step": 5})
    assert read_rows(path) == [{"step": 5}]


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    path, text = tmp_path / "rows.jsonl", "x" * 9000  # more than a buffer
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(append_row, [path] * 80, [{"row": row, "text": text} for row in range(80)]))
    assert sorted(row["row"] for row in read_rows(path)) == list(range(80))
