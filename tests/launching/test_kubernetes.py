"""The manifests: what a cluster would read in them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.launching.job import Job, unknown
from imagesprint.launching.kubernetes import IMAGE, Kubernetes

MakeJob = Callable[..., Job]
StandIn = Callable[..., Path]
CallsOf = Callable[[Path], list[dict[str, Any]]]
ON_CLAIM = {"data": Path("/data/images"), "output": Path("/data/runs/a")}


def test_a_plain_job(make_job: MakeJob) -> None:
    job = make_job(sets=("momentum=0.8", "augment=mixup 0.2"))
    service, manifest = yaml.safe_load_all(Kubernetes("image:1", None, kubeflow=False).write(job))
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    assert name == "minutes104-first-try"
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"] == name
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["activeDeadlineSeconds"] == 2700
    (container,) = spec["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["PET_NNODES"] == "2"
    assert variables["PET_NPROC_PER_NODE"] == "4"
    assert variables["PET_MASTER_ADDR"] == f"{name}-0.{name}"
    assert variables["PET_NODE_RANK"] is None  # from the pod's index
    assert variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "110"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 120
    assert container["resources"] == {"requests": {"cpu": "24", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": "4"}}
    (rule,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"].popitem()[1]
    assert rule["labelSelector"]["matchLabels"] == service["spec"]["selector"]
    assert container["command"] == ["torchrun", "-m", "imagesprint"]
    assert container["args"] == [word for words in job.words(job.runs[0]) for word in words]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in spec["template"]["spec"]["volumes"]} == {"shared-memory", "cache"}


def test_a_train_job(make_job: MakeJob) -> None:
    job = make_job(**ON_CLAIM, forecast=replace(unknown("as nobody asked"), kept_bytes=150 * 2**30))
    (manifest,) = yaml.safe_load_all(Kubernetes(None, "claim", kubeflow=True).write(job))
    assert manifest["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert "activeDeadlineSeconds" not in manifest["spec"]
    trainer = manifest["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 4, IMAGE)
    assert trainer["args"] == [word for words in job.words(job.runs[0]) for word in words]
    assert trainer["resourcesPerNode"]["requests"] == {"cpu": "24", "memory": "32Gi", "ephemeral-storage": "170Gi"}
    (patch,) = manifest["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (rule,) = pod["affinity"]["podAntiAffinity"].popitem()[1]
    assert rule["labelSelector"]["matchLabels"] == {"jobset.sigs.k8s.io/jobset-name": manifest["metadata"]["name"]}
    assert (node["name"], container["name"]) == ("node", "node")
    assert {"name": "claim", "mountPath": "/data"} in container["volumeMounts"]
    assert {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}} in pod["volumes"]


@pytest.mark.parametrize(("kubeflow", "documents"), [(False, 4), (True, 2)])
def test_a_job_for_each_seed(make_job: MakeJob, kubeflow: bool, documents: int) -> None:
    text = Kubernetes("image:1", None, kubeflow).write(make_job(seeds=(0, 3)))
    found = list(yaml.safe_load_all(text))
    assert len(found) == documents
    assert {each["metadata"]["name"] for each in found} == {f"minutes104-first-try-seed{seed}" for seed in (0, 3)}
    assert text.count("# time: 9 min\n# cost: 5.09\n") == 1


def test_words_that_yaml_would_read_otherwise(make_job: MakeJob) -> None:
    words = ("name=yes", "no", "1e3", "a: b", "#", "it's", "ü", "*", "key=1,2", "--flag", "'")
    manifest = list(yaml.safe_load_all(Kubernetes("no", None, kubeflow=False).write(make_job(sets=words))))[1]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["args"][-2 * len(words) + 1 :: 2] == list(words)
    assert container["image"] == "no"


def test_submitted(make_job: MakeJob, stand_in: StandIn, calls_of: CallsOf) -> None:
    target, job = Kubernetes("image:1", "claim", kubeflow=False), make_job(**ON_CLAIM)
    made = "service/minutes104-a\njob.batch/minutes104-a"
    calls = stand_in("kubectl", get=(0, '["ReadWriteMany"]'), output=(0, made))
    submitted = target.submit(job, target.write(job))
    assert submitted.jobs == made.split()
    assert submitted.stop == ["kubectl delete job,service minutes104-a"]
    get, tried, created = calls_of(calls)
    assert get["words"][:3] == ["get", "persistentvolumeclaim", "claim"]
    assert "--dry-run=server" in tried["words"]
    assert tried["text"] == created["text"] == target.write(job)

    stand_in("kubectl", get=(0, '["ReadWriteOnce"]'))
    with pytest.raises(UsageError, match="2 pods cannot write to it at once"):
        target.submit(job, "")
    stand_in("kubectl", get=(1, 'Error from server (NotFound): persistentvolumeclaims "claim" not found'))
    with pytest.raises(ImagesprintError, match=r'kubectl refuses --claim claim: .*"claim" not found'):
        target.submit(job, "")
    log = 'E1129 13:41:38.066696 23517 memcache.go:265] "Unhandled Error"'
    calls = stand_in("kubectl", get=(0, '["ReadWriteMany"]'), dry=(1, f"{log}\nerror: no matches for kind"))
    before = len(calls_of(calls))
    with pytest.raises(ImagesprintError, match="kubectl refuses the job: error: no matches for kind"):
        target.submit(job, "")
    stand_in("kubectl", get=(0, '["ReadWriteMany"]'), dry=(1, "Error from server (AlreadyExists): jobs.batch exists"))
    with pytest.raises(ImagesprintError) as caught:
        target.submit(job, "")
    assert caught.value.hint.startswith("`kubectl delete job,service minutes104-a`, then this again")
    assert not any("--output name" in " ".join(call["words"]) for call in calls_of(calls)[before:])


@pytest.mark.parametrize(
    ("claim", "changes", "what"),
    [
        (None, {"output": Path("/data/run")}, "--output /data/run: pods do not share the disk of this machine"),
        ("claim", {**ON_CLAIM, "output": Path("run")}, "--output run: pods do not share the disk"),
        ("claim", {**ON_CLAIM, "output": Path("/runs/a")}, "are on two volumes, and --claim is one"),
        ("claim", {}, "neither --data nor --output is a path on it"),
        (None, {"source": "my.toml"}, "pods do not see my.toml"),
    ],
)
def test_what_pods_do_not_see(make_job: MakeJob, claim: str | None, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        Kubernetes(None, claim, kubeflow=False).check(make_job(**changes))
