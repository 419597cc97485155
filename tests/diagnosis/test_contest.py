"""Programs side by side: they take turns, and all their time is counted. Nothing here imports torch: it takes long."""

import multiprocessing
import time
from functools import partial

import pytest

from imagesprint.diagnosis.contest import Open, Pass, run_rounds
from imagesprint.errors import RecordError


def burn(seconds: float) -> Pass:
    def run() -> dict[str, float]:
        start = time.process_time()
        while time.process_time() - start < seconds:
            pass
        return {"asked": seconds}

    return run


def burn_in_children(seconds: float) -> Pass:
    """As a DataLoader does it: by processes that outlive the pass."""
    pool = multiprocessing.get_context("fork").Pool(2)

    def run() -> None:
        pool.map(_burn_once, [seconds / 2] * 2, chunksize=1)

    return run


def _burn_once(seconds: float) -> None:
    burn(seconds)()


def no_library() -> Pass:
    raise ImportError("no such\nlibrary")


def end_abruptly() -> Pass:
    raise SystemExit(3)


def test_programs_take_turns_and_their_time_is_measured() -> None:
    turns: list[str] = []
    programs: dict[str, Open] = {"a": partial(burn, 0.2), "children": partial(burn_in_children, 0.4)}
    programs.update(none=no_library, dead=end_abruptly)
    samples, left_out = run_rounds(programs, ("none", "dead"), 2, turns.append)
    assert turns == ["a", "children", "none", "dead", "a", "children", "a", "children"]
    assert left_out == {"none": "ImportError: no such library", "dead": "the process of dead ended"}
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 2, "children": 2}
    for sample in samples["a"]:
        assert sample.extra == {"asked": 0.2}
        assert 0.2 <= sample.cpu_seconds < 0.3
        assert sample.seconds >= 0.2
    assert all(0.4 <= sample.cpu_seconds < 1 for sample in samples["children"])


def damaged() -> Pass:
    raise RecordError("record 7 is damaged", "verify it")


def test_the_error_of_a_program_that_is_needed_is_raised() -> None:
    with pytest.raises(RecordError, match="record 7 is damaged") as caught:
        run_rounds({"a": damaged}, (), 1, lambda _: None)
    assert caught.value.hint == "verify it"
