import os
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imagesprint.runs.event_file import EventFile


def points(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def test_a_later_file_takes_steps_back_also_with_the_clock_set_back(tmp_path: Path) -> None:
    ahead = tmp_path / f"events.out.tfevents.{int(time.time()) + 10**7}.host.1"
    first = EventFile(tmp_path)
    for step in range(5):
        first.scalars({"loss": step}, step)
    os.rename(next(tmp_path.iterdir()), ahead)  # as if it had been written then
    second = EventFile(tmp_path, purge_from=3)
    second.scalars({"loss": 30.0}, 3)
    assert sorted(tmp_path.iterdir())[0] == ahead
    assert points(tmp_path) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]
    second.close()
