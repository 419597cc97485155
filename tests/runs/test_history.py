from pathlib import Path

from imagesprint.files import read_rows
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import DONE, History


def test_interruptions_with_their_reasons_and_kills_by_what_is_missing(tmp_path: Path) -> None:
    history = History(RunDirectory(tmp_path))
    assert history.interruptions() == ()
    history.begin(0, 2)
    history.begin(10, 2)  # the one before did not say how it ended
    history.end(13, "stopped by SIGTERM")
    history.begin(13, 2)
    history.end(20, DONE)  # --stop-after
    history.begin(20, 2)
    told = history.interruptions()
    assert [(one.reason, one.step) for one in told] == [("killed", 10), ("stopped by SIGTERM", 13)]
    assert told[0].time is None
    assert told[1].time == read_rows(tmp_path / "commands.jsonl")[2]["ended"]
