"""What `plan`, `train`, `doctor` and `bench data` say of a ROOT and a run in S3, held against what is fetched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.cli.main import main
from imagesprint.diagnosis import stage_costs, store_speed
from imagesprint.diagnosis.disturbance import Disturbance
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import open_root
from imagesprint.storage.cache import LIMIT_VARIABLE
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url
from s3_server import S3


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe; what is measured for it is quick, and kept in the test's own folder."""
    for name in ("STEP_SECONDS", "LOADING_SECONDS", "EVALUATION_SECONDS"):
        monkeypatch.setattr(stage_costs, name, 0.1)
    monkeypatch.setattr(store_speed, "SECONDS", 0.1)
    monkeypatch.setattr(Disturbance, "share", lambda _: 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "measured"))
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe))
    return path


def test_a_plan_counts_what_is_fetched_and_sent_and_train_says_it(
    tiny: Path, root_url: Url, photo_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = root_url.parent / f"{root_url.name}-run"
    words = ["plan", str(tiny), "--data", str(root_url), "--output", str(run)]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    data = plan["storage"]["data"]
    print(json.dumps(plan["storage"], indent=1))
    assert main(words) == 0
    print(capsys.readouterr().out)
    assert main(["train", *words[1:]]) == 0
    print(capsys.readouterr().err)
    assert 0
