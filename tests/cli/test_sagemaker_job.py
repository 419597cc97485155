"""`imagesprint train` alone in a SageMaker job's container; by AWS's own drivers: `benchmarks/sagemaker_drivers.py`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint import launching
from imagesprint.cli.main import main
from imagesprint.cli.sagemaker_job import words_of_job
from imagesprint.errors import UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.runs.sagemaker import FOLDER_VARIABLE

Job = Callable[..., Path]
REQUEST = Path(launching.__file__).with_name("templates") / "sagemaker.json"  # of a job, with the metrics it looks for


@pytest.fixture
def job(tmp_path: Path, photo_root: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Makes the files of a job that trains the tiny recipe, with further hyperparameters; returns its /opt/ml."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "ml"))
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe))
    config = tmp_path / "ml/input/config"
    config.mkdir(parents=True)

    def write(hosts: int = 1, channel: str = "data", **hyperparameters: str) -> Path:
        names = [f"algo-{number + 1}" for number in range(hosts)]
        own = {"recipe": str(tmp_path / "tiny.toml"), "device": "cpu"}
        files = {
            "resourceconfig": {"current_host": "algo-1", "hosts": names, "network_interface_name": "lo"},
            "hyperparameters": {key.replace("__", "."): value for key, value in (own | hyperparameters).items()},
            "inputdataconfig": {channel: {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}},
        }
        for name, content in files.items():
            (config / f"{name}.json").write_text(json.dumps(content))
        link = tmp_path / "ml/input/data" / channel
        if not link.exists():
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(photo_root)
        return tmp_path / "ml"

    return write


def test_the_words_that_a_job_stands_for(job: Job) -> None:
    folder = job(set__seed="3", set='["model=resnet18", "seed=2"]', checkpoint_every="5", processes="2")
    found = words_of_job(["--set", "seed=4", "--quiet"])
    assert found[0].endswith("tiny.toml")
    assert found[1:] == [
        "--device=cpu", "--set=seed=3", "--set=model=resnet18", "--set=seed=2", "--checkpoint-every=5", "--processes=2",
        f"--data={folder}/input/data/data", f"--output={folder}/checkpoints", "--set", "seed=4", "--quiet",
    ]  # fmt: skip
    job(channel="images", data="s3://bucket/root", output="s3://bucket/run")
    assert {"--data=s3://bucket/root", "--output=s3://bucket/run", "--processes=1"} < set(words_of_job([]))


def test_a_job_without_a_recipe(job: Job) -> None:
    folder = job()
    (folder / "input/config/hyperparameters.json").write_text("{}")
    with pytest.raises(UsageError, match="the job has no hyperparameter 'recipe'"):
        words_of_job([])


def test_a_job_that_is_interrupted_goes_on_and_delivers(
    job: Job, imagesprint: Callable[..., Any], tmp_path: Path
) -> None:
    folder = job(set__seed="3", set__phases__1__epochs="4,5", set__eval_every="1")
    stopped = imagesprint("train", "--stop-after", 4)
    assert stopped.code == 0, stopped.stderr
    assert "without a CheckpointConfig" in stopped.stderr
    for file in ("tensorboard/events.out.tfevents.1.a.1", "recipe.toml"):  # as SageMaker marks what it sent
        (folder / f"checkpoints/{file}.sagemaker-uploaded").touch()
    done = imagesprint("train", "--json")
    assert done.code == 0, done.stderr
    assert "job         SageMaker's job" in done.stderr
    assert "resumed after step 4" in done.stderr
    assert "without a CheckpointConfig" not in done.stderr
    assert done.json["steps"] == 20
    assert not (folder / "output/failure").exists()
    assert {file.name for file in (folder / "output/data").iterdir()} > {"report.html", "result.json", "metrics.jsonl"}
    assert "seed = 3" in (folder / "output/data/recipe.toml").read_text()
    assert [file.name for file in (folder / "model").iterdir()] == ["model.pt"]
    shutil.copy(done.json["checkpoint"], tmp_path / "last.pt")
    assert (folder / "model/model.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()
    wanted = re.findall(r'"Regex": "([^"]+)"', REQUEST.read_text())
    wanted = [pattern for pattern in wanted if "mean of classes" not in pattern]  # said where classes are unequal
    assert len(wanted) > 3
    assert [pattern for pattern in wanted if not re.search(pattern, stopped.stderr + done.stderr)] == []


@pytest.mark.parametrize(
    ("words", "hyperparameters", "what"),
    [
        ([], {"chekpoint": "3"}, "unknown flag '--chekpoint'"),
        ([], {"processes": "two"}, "'two' is not a whole number"),
        (["small"], {}, "RECIPE is given without --data and --output"),
    ],
)
def test_what_fails_is_said_in_the_failure_file(
    job: Job, words: list[str], hyperparameters: dict[str, str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = job(**hyperparameters)
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "hint: " in said
    assert (folder / "output/failure").read_text() == said
