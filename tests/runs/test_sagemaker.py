"""The files of a SageMaker training job as its container sees them, in a folder that stands for /opt/ml."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.errors import RankError, UsageError
from imagesprint.runs import sagemaker
from imagesprint.runs.environment import Launch, RankEnvironment, find_launch, is_main_rank

Job = Callable[..., Path]
HOSTS = {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"], "network_interface_name": "eth0"}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Writes the configuration files of a job, each given by its name; returns the folder."""
    for name in ("RANK", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR", "MASTER_PORT", "TRAINING_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(sagemaker.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "input/config").mkdir(parents=True)

    def write(**files: object) -> Path:
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"input/config/{name}.json").write_text(text)
        return tmp_path

    return write


def test_hosts_are_ranks_by_their_names(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sagemaker.is_job()
    assert find_launch() is None
    job(resourceconfig=HOSTS)
    assert find_launch() == Launch("SageMaker", RankEnvironment(1, 2, 0, 1), "algo-1", 7777, "eth0")
    assert not is_main_rank()
    monkeypatch.setenv("TRAINING_JOB_NAME", "first")
    assert sagemaker.describe_job() == "SageMaker's job first, host 2 of 2"
    job(resourceconfig=HOSTS | {"hosts": ["algo-2"]})
    assert find_launch() is None
    assert sagemaker.describe_job() == "SageMaker's job first"


@pytest.mark.parametrize("content", [{}, {"hosts": ["algo-1"], "current_host": "algo-2"}, "[]", "not JSON"])
def test_hosts_that_are_not_said(job: Job, content: object) -> None:
    job(resourceconfig=content)
    with pytest.raises(RankError, match=r"resourceconfig.json does not say which of the job's hosts this is"):
        find_launch()


def test_hyperparameters_are_text(job: Job) -> None:
    assert sagemaker.hyperparameters() == {}
    of_aws = {"sagemaker_job_name": '"x"', "_tuning_objective_metric": "validation:top1"}
    job(hyperparameters={"recipe": '"small"', "set.seed": "3", "set.model": "resnet18", "keep": "last:3"} | of_aws)
    expected = {"recipe": "small", "set.seed": "3", "set.model": "resnet18", "keep": "last:3"}
    assert sagemaker.hyperparameters() == expected


def test_the_channel_with_the_data(job: Job) -> None:
    folder = job(resourceconfig=HOSTS, inputdataconfig={"other": {}, "training": {"TrainingInputMode": "FastFile"}})
    assert sagemaker.data_channel() == folder / "input/data/training"


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({}, "the job has no channel data or training: there is no channel"),
        ({"images": {}, "more": {}}, "the channels are images, more"),
        ({"data": {"TrainingInputMode": "Pipe"}}, "the channel 'data' is a pipe"),
        ({"data": {"S3DistributionType": "ShardedByS3Key"}}, "the channel 'data' is dealt to the hosts"),
    ],
)
def test_channels_that_hold_no_root(job: Job, channels: object, message: str) -> None:
    job(resourceconfig=HOSTS, inputdataconfig=channels)
    with pytest.raises(UsageError, match=message) as caught:
        sagemaker.data_channel()
    assert caught.value.hint


def test_the_first_failure_is_the_reason(job: Job) -> None:
    sagemaker.note_failure("no job", "")
    folder = job(resourceconfig=HOSTS)
    sagemaker.note_failure("it is dark", f"wait {'long ' * 1000}")
    sagemaker.note_failure("another", "")
    reason = (folder / "output/failure").read_text()
    assert reason.startswith("error: it is dark\nhint: wait long ")
    assert len(reason) == 1024
