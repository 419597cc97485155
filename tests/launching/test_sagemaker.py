"""The request for a training job, and the script that sends it."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.launching.job import Job, unknown
from imagesprint.launching.sagemaker import IMAGE, INSTANCE, ROLE, SageMaker
from imagesprint.recipes.library import load_recipe

MakeJob = Callable[..., Job]
StandIn = Callable[..., Path]
CallsOf = Callable[[Path], list[dict[str, Any]]]
PROGRESS = "step 1296/19683  loss 3.1416  ETA 1:02 min  top-1 33.3%  14,200 images/s  data wait 2%  epoch 6.00"
EVALUATED = "evaluated   epoch 40: top-1 75.88%, mean of classes 71.5%, top-5 93.24%, loss 1.0041 on 9 images in fp32"


def test_the_request(make_job: MakeJob) -> None:
    target = SageMaker("image:1", "arn:role", "H100")
    job = make_job(nodes=2, ranks=8, sets=("phases.0.lr=3,4", "phases.*.lr=1,2"), forecast=unknown("as nobody asked"))
    assert target.missing(job) == []
    (request,) = target.requests(job)
    assert request["ResourceConfig"]["InstanceType"] == "ml.p5.48xlarge"
    assert request["ResourceConfig"]["InstanceCount"] == 2
    assert request["HyperParameters"] == {
        "recipe": "minutes104",
        "data": "s3://bucket/imagenet",
        "device": "cuda",
        "processes": "8",
        "set.phases.*.lr": "1,2",
    }
    assert request["CheckpointConfig"]["S3Uri"] == "s3://bucket/runs/First try"
    assert (
        request["OutputDataConfig"]["S3OutputPath"] == "s3://bucket/runs"
    )  # not in RUN, which comes back with a resume
    assert "StoppingCondition" not in request
    assert SageMaker("i", "r", None).requests(make_job())[0]["StoppingCondition"] == {"MaxRuntimeInSeconds": 2700}


def test_its_metrics_are_in_the_lines_that_train_prints(make_job: MakeJob) -> None:
    (request,) = SageMaker(None, None, None).requests(make_job())
    found = {
        metric["Name"]: match[1]
        for metric in request["AlgorithmSpecification"]["MetricDefinitions"]
        for match in re.finditer(metric["Regex"], f"{PROGRESS}\n{EVALUATED}")
    }
    assert found == {
        "train:loss": "3.1416",
        "train:top1": "33.3",
        "train:data_wait": "2",
        "validation:top1": "75.88",
        "validation:mean_class_accuracy": "71.5",
        "validation:top5": "93.24",
        "validation:loss": "1.0041",
    }


def test_the_script_sends_the_requests(make_job: MakeJob, stand_in: StandIn, calls_of: CallsOf, tmp_path: Path) -> None:
    target, job = SageMaker("image:1", "it's a role", None), make_job(seeds=(0, 3))
    script = tmp_path / "job.sh"
    script.write_text(target.write(job))
    calls = stand_in("aws")
    subprocess.run(["sh", script], check=True, timeout=60)
    words = [call["words"] for call in calls_of(calls)]
    sent = [json.loads(each[-1]) for each in words]
    requests = target.requests(job)
    for each, request in zip(words, requests, strict=True):
        assert each[:3] == ["sagemaker", "create-training-job", "--training-job-name"]
        name = request.pop("TrainingJobName")
        assert re.fullmatch(rf"{name[:-15]}\d{{8}}-\d{{6}}", each[3])  # of when it is sent, not of when it was written
    assert sent == requests
    assert [request["HyperParameters"]["set.seed"] for request in sent] == ["0", "3"]
    assert sent[1]["CheckpointConfig"]["S3Uri"] == "s3://bucket/runs/First try-seed3"
    assert len({each[3] for each in words}) == 2
    text = script.read_text()
    assert "# time: 9 min\n# cost: 5.09\n" in text
    assert f"To be filled in: {INSTANCE}\n" in text
    assert text.count("#!/bin/sh") == 1


def test_submitted(make_job: MakeJob, stand_in: StandIn, calls_of: CallsOf) -> None:
    target, job = SageMaker("image:1", "arn:role", None), make_job(seeds=(0, 3))
    calls = stand_in("aws")
    submitted = target.submit(job, target.write(job))
    assert [json.loads(call["words"][-1]) for call in calls_of(calls)] == target.requests(job)
    assert len(submitted.jobs) == len(submitted.stop) == 2
    assert submitted.follow[0].endswith(submitted.jobs[0])
    stand_in("aws", seed3=(254, "An error occurred (ResourceLimitExceeded): the limit is 1"))
    with pytest.raises(ImagesprintError, match=r"aws refuses minutes104-first-try-seed3-.*the limit is 1") as caught:
        target.submit(job, "")
    assert caught.value.hint.startswith("submitted before it were minutes104-first-try-seed0-")


def test_what_is_missing(make_job: MakeJob) -> None:
    assert [each.text for each in SageMaker(None, None, "v100").missing(make_job(ranks=4))] == [ROLE, IMAGE]
    assert [each.text for each in SageMaker("i", "r", "h200").missing(make_job(ranks=4))] == [INSTANCE]
    assert SageMaker("i", "r", None).missing(make_job(on_gpus=False)) == []
    with pytest.raises(UsageError, match="ACCOUNT:role/ROLE is still to be filled in") as caught:
        SageMaker("i", None, None).check_ready(make_job(on_gpus=False))
    assert caught.value.hint.startswith("give --role ARN")


@pytest.mark.parametrize("changes", [{"data": Path("/data")}, {"output": Path("/runs/first")}])
def test_what_containers_do_not_see(make_job: MakeJob, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="SageMaker's containers see S3 alone"):
        SageMaker(None, None, None).check(make_job(**changes))


def test_recipes_and_weights_that_containers_do_not_see(make_job: MakeJob) -> None:
    target = SageMaker(None, None, None)
    assert target.check(make_job(source="s3://bucket/my.toml")) == []
    with pytest.raises(UsageError, match=r"do not see /home/my.toml, a file of this machine"):
        target.check(make_job(source="/home/my.toml"))
    from_file = replace(load_recipe("small"), init="a.pt")
    with pytest.raises(UsageError, match=r"do not see init=a.pt"):
        target.check(make_job(recipe=from_file))
    assert target.check(make_job(recipe=replace(from_file, init="package:weights"))) == []  # of their own packages
