"""A training job of Amazon SageMaker, from inside its container: the files below /opt/ml. No torch, and no SDK.

The contract is docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html; how AWS's
own drivers read it: `sagemaker.train.container_drivers` of aws/sagemaker-python-sdk. Their variables (SM_HOSTS,
SM_CHANNEL_DATA, …) are made of these files, so the files are what is read here.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from imagesprint.errors import RankError, UsageError
from imagesprint.files import naming
from imagesprint.runs.environment import Launch, RankEnvironment

FOLDER_VARIABLE: Final = "SAGEMAKER_BASE_DIR"  # in place of /opt/ml, as in AWS's toolkits
_FOLDER: Final = "/opt/ml"
_PORT: Final = 7777  # SM_MASTER_PORT of AWS's drivers
CHANNELS: Final = ("data", "training")  # one of them is ROOT
_REASON: Final = 1024  # characters of the failure file that SageMaker shows
_NOT_OURS: Final = ("sagemaker_", "_tuning_")  # what AWS's SDKs and its tuning put among the hyperparameters


def folder() -> Path:
    """Return /opt/ml, or what stands in its place."""
    return Path(os.environ.get(FOLDER_VARIABLE, _FOLDER))


def is_job() -> bool:
    """Whether this process is in the container of a training job."""
    return _config("resourceconfig").exists()


def find_host() -> Launch | None:
    """Return this container's host as one of the job's; None outside of a job, or where it is the only one.

    Raises RankError where the file does not hold together.
    """
    if not is_job():
        return None
    try:
        resources = _read("resourceconfig")
        hosts, here = sorted(resources["hosts"]), resources["current_host"]
        place = RankEnvironment(hosts.index(here), len(hosts), 0, 1)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise RankError(
            f"{_config('resourceconfig')} does not say which of the job's hosts this is: {error}",
            "SageMaker writes it; outside of its containers unset SAGEMAKER_BASE_DIR",
        ) from error
    interface = str(resources.get("network_interface_name", ""))
    return Launch("SageMaker", place, hosts[0], _PORT, interface) if len(hosts) > 1 else None


def describe_job() -> str:
    """Return which job this process belongs to, for a person; "" where to none."""
    if not is_job():
        return ""
    host = find_host()
    hosts = f", host {host.place.rank + 1} of {host.place.world_size}" if host is not None else ""
    return f"SageMaker's job {os.environ.get('TRAINING_JOB_NAME', '')}".rstrip() + hosts


def hyperparameters() -> dict[str, str]:
    """Return the job's hyperparameters, without those that AWS adds. Raises UsageError.

    Some SDKs write each value as JSON: `"small"` in quotes is small.
    """
    found = _read("hyperparameters") if _config("hyperparameters").exists() else {}
    return {key: _unquoted(value) for key, value in found.items() if not key.startswith(_NOT_OURS)}


def _unquoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    with suppress(ValueError):
        inner = json.loads(text)
        return inner if isinstance(inner, str) else text
    return text


def data_channel() -> Path:
    """Return the folder of the channel that holds ROOT, of which each host has all. Raises UsageError."""
    channels = _read("inputdataconfig") if _config("inputdataconfig").exists() else {}
    name = next((name for name in CHANNELS if name in channels), None)
    if name is None:
        there = f"the channels are {', '.join(channels)}" if channels else "there is no channel"
        raise UsageError(
            f"the job has no channel {' or '.join(CHANNELS)}: {there}",
            f"name the channel with ROOT {CHANNELS[0]!r}, or give the hyperparameter data, a URL such as s3://bucket/root",
        )
    channel = channels[name] if isinstance(channels[name], dict) else {}
    if channel.get("TrainingInputMode") == "Pipe":
        raise UsageError(
            f"the channel {name!r} is a pipe, of which no record can be read alone",
            "give it TrainingInputMode FastFile or File",
        )
    if channel.get("S3DistributionType") == "ShardedByS3Key" and find_host() is not None:
        raise UsageError(
            f"the channel {name!r} is dealt to the hosts, each of which needs all of ROOT",
            "give it S3DataDistributionType FullyReplicated",
        )
    return folder() / "input" / "data" / name


def count_gpus() -> int:
    """Return the number of NVIDIA's GPUs in this container, by their devices; torch would take seconds."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def note_failure(what: str, hint: str) -> None:
    """In a job, have SageMaker show this error as the reason why it failed: the first one that is noted counts."""
    file = folder() / "output" / "failure"
    if is_job() and not file.exists():
        with suppress(OSError):  # the log has it, too
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"error: {what}\nhint: {hint}\n"[:_REASON], encoding="utf-8", errors="replace")


def _config(name: str) -> Path:
    return folder() / "input" / "config" / f"{name}.json"


def _read(name: str) -> dict[str, Any]:
    """The object in one of the job's files. Raises UsageError, FileError."""
    file = _config(name)
    with naming("read", file):
        content = file.read_bytes()
    try:
        found = json.loads(content)
    except ValueError as error:
        raise UsageError(f"{file} is no JSON: {error}", "SageMaker writes it") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no object", "SageMaker writes it")
    return found
