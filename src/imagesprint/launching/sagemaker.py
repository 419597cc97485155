"""Amazon SageMaker: requests for training jobs, and a script that has the aws command send them."""

import json
import re
import time
from collections.abc import Iterable
from typing import Any, Final

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.launching.job import Job, Run, check_in_reach
from imagesprint.launching.target import Missing, Submitted, Target
from imagesprint.launching.templates import Value, fill
from imagesprint.storage.url import Url

# What stands where a value is not known.
ROLE: Final = "arn:aws:iam::ACCOUNT:role/ROLE"
IMAGE: Final = "ACCOUNT.dkr.ecr.REGION.amazonaws.com/imagesprint:TAG"
INSTANCE: Final = "ml.INSTANCE"

_CPU_INSTANCE: Final = "ml.c7i.4xlarge"
# By the GPUs that they have: aws.amazon.com/sagemaker/ai/pricing, training.
_INSTANCES: Final = {
    ("v100", 1): "ml.p3.2xlarge",
    ("v100", 4): "ml.p3.8xlarge",
    ("v100", 8): "ml.p3.16xlarge",
    ("a100", 8): "ml.p4d.24xlarge",
    ("h100", 1): "ml.p5.4xlarge",
    ("h100", 8): "ml.p5.48xlarge",
    ("h200", 8): "ml.p5en.48xlarge",
}


class SageMaker(Target):
    """CreateTrainingJob by the aws command.

    ROOT is read by its URL: a channel would either be copied before the first step, or ask S3 for each record. RUN is
    what SageMaker keeps of /opt/ml/checkpoints.
    """

    tool = "aws"
    tool_hint = "pip install awscli and `aws configure`, or leave --submit out and run the file where both are"

    def __init__(self, image: str | None, role: str | None, gpu: str | None) -> None:
        self._image, self._role, self._gpu = image or IMAGE, role or ROLE, gpu
        self._stamp = time.strftime("%Y%m%d-%H%M%S")  # behind each name: none is ever free again

    def check(self, job: Job) -> list[str]:
        """S3 is all that the containers see."""
        for flag, place in (("--data", job.data), ("--output", job.output)):
            if not (isinstance(place, Url) and place.scheme == "s3" and place.key):
                raise UsageError(
                    f"{flag} {place}: SageMaker's containers see S3 alone, and a folder of a bucket there",
                    f"name it {flag} s3://bucket/folder",
                )
        check_in_reach(job, "SageMaker's containers")
        return []

    def missing(self, job: Job) -> list[Missing]:
        instances = " or ".join(f"--gpu {gpu} --gpus {gpus}" for gpu, gpus in _INSTANCES)
        wanted = (
            (self._role, Missing(ROLE, "--role ARN")),
            (self._image, Missing(IMAGE, "--image URI")),
            (self._instance(job), Missing(INSTANCE, instances)),
        )
        return [missing for value, missing in wanted if value == missing.text]

    def _instance(self, job: Job) -> str:
        """The smallest that has these GPUs and no others."""
        return _INSTANCES.get(((self._gpu or "").lower(), job.ranks), INSTANCE) if job.on_gpus else _CPU_INSTANCE

    def write(self, job: Job) -> str:
        scripts = []
        for run in job.runs:
            request = tuple(self._request(job, run, None).splitlines())
            scripts.append(fill("sagemaker.sh", {**self.header(job), "name": run.name, "request": request}))
        head = scripts[0].partition(f"create {job.runs[0].name} <<")[0]
        return head + "\n".join(script.removeprefix(head) for script in scripts)

    def requests(self, job: Job) -> list[Any]:
        return [json.loads(self._request(job, run, f"{run.name}-{self._stamp}")) for run in job.runs]

    def _request(self, job: Job, run: Run, name: str | None) -> str:
        """The request for one run, as JSON; without a name where that comes from elsewhere."""
        given = {"data": str(job.data), "device": job.device, "processes": str(job.ranks)}
        given |= {f"set.{key}": value for key, value in _without_order(job.sets_of(run)).items()}
        known = {
            "role": self._role,
            "image": self._image,
            "recipe": job.source,
            "output": str(run.output),
            "models": str(run.output.parent),
            "instance": self._instance(job),
            "nodes": job.nodes,
        }
        values: dict[str, Value] = {key: json.dumps(value) for key, value in known.items()}
        values["hyperparameters"] = tuple(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in given.items())
        values["seconds"] = job.forecast.limit_seconds
        values["name"] = None if name is None else json.dumps(name)
        return fill("sagemaker.json", values)

    def submit(self, job: Job, text: str) -> Submitted:  # noqa: ARG002 (the requests are what counts)
        names: list[str] = []
        for request in self.requests(job):
            try:
                words = ("sagemaker", "create-training-job", "--cli-input-json", json.dumps(request))
                self.call(*words, doing=request["TrainingJobName"])
            except ImagesprintError as error:
                raise ImagesprintError(error.what, _told(names) or error.hint) from None
            names.append(request["TrainingJobName"])
        logs = "aws logs tail /aws/sagemaker/TrainingJobs --follow --log-stream-name-prefix"
        return Submitted(
            names,
            follow=[f"{logs} {name}" for name in names],
            stop=[f"aws sagemaker stop-training-job --training-job-name {name}" for name in names],
            resume=["the same command: a job with another name goes on where these ended"],
        )


def _told(names: list[str]) -> str:
    return f"submitted before it were {', '.join(names)}: stop them, or leave their seeds out" if names else ""


def _without_order(sets: Iterable[str]) -> dict[str, str]:
    """The `--set`s as keys and values, such that they come to the same in the order of the keys: `*` is the first."""
    found: dict[str, str] = {}
    for text in sets:
        key, _, value = text.partition("=")
        key = key.strip()
        one_row = re.compile(re.escape(key).replace(r"\*", r"\d+"))
        found = {before: other for before, other in found.items() if not one_row.fullmatch(before)} | {key: value}
    return found
