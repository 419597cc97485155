import io
import re

import pytest

from imagesprint.console import Console
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.rows import MetricsRow
from imagesprint.training.metering import Cadence
from imagesprint.training.progress import ProgressLine
from imagesprint.training.time_plan import TimeKeeper, TimePlan, step_work

ROW = MetricsRow(
    0,
    0,
    2,
    2.34567,
    2.3,
    0.04567,
    54.32,
    77.0,
    0.0021,
    2048,
    224,
    images_per_second=14200.4,
    data_wait=0.031,
    seconds=1.0,
)


def line_at(
    columns: int, recipe_name: str, step: int, monkeypatch: pytest.MonkeyPatch, is_terminal: bool = True
) -> str:
    """What the line of a training on ImageNet shows once a tenth of a second a step is what it takes."""
    monkeypatch.setenv("COLUMNS", str(columns))
    recipe = load_recipe(recipe_name)
    schedule = Schedule(recipe, 1_281_167)
    plan = TimePlan(0.0, (0.1,) * len(recipe.phases), 0.0, 0.0, (), "measured")
    cadence = Cadence(schedule, 1, None, schedule.total_steps)
    keeper = TimeKeeper(step_work(recipe, 1000), cadence, 0, plan, 0.0)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    ProgressLine(Console(stream), schedule, keeper).update(step, ROW)
    return stream.getvalue().removeprefix("\r\x1b[2K").removesuffix("\n")


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("recipe", ["demo", "minutes104", "classic"])
def test_step_loss_and_time_to_go_come_first(columns: int, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = line_at(columns, recipe, 12_345, monkeypatch)
    assert len(text) < columns
    assert re.match(r"step 12345(/\d+)?  loss 2\.34\d+  ETA [\d:]+ (s|min|h)(  |$)", text)
    if columns >= 60:
        assert "  top-1 54.3%" in text
    if columns >= 80:
        assert "  14,200 images/s" in text


@pytest.mark.parametrize(("columns", "is_terminal"), [(200, True), (40, False)])
def test_all_is_shown_where_there_is_room_or_no_terminal(
    columns: int, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert line_at(columns, "minutes104", 11_411, monkeypatch, is_terminal) == (
        "step 11411/19683  loss 2.3457  ETA 13:47 min  top-1 54.3%  14,200 images/s  data wait 3%  epoch 32.00  "
        "lr 0.0021  224 px  phase 2"
    )
