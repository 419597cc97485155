"""Kubernetes: a plain Job of one pod a node, or Kubeflow Trainer's TrainJob; torchrun starts each pod's ranks."""

import json
import math
import re
from pathlib import Path
from typing import Final

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.launching.job import Job, Run, check_in_reach
from imagesprint.launching.target import Missing, Submitted, Target
from imagesprint.launching.templates import fill
from imagesprint.storage.url import Place, Url

IMAGE: Final = "REGISTRY/imagesprint:TAG"  # what stands where it is not known

# Asked for, a rank on a GPU and one on a CPU: less than machines have for each. A pod may use what is free of the rest.
_CORES: Final = {True: 6, False: 1}
_GIBIBYTES: Final = {True: 8, False: 4}  # of memory
_SPARE: Final = 20  # GiB of disk beside ROOT, for checkpoints on their way
_FAILURES: Final = 3  # of each pod
_GROUP: Final = 1000  # of files on a claim: any but 0 does
_PLAIN: Final = re.compile(r"(--)?[A-Za-z/][\w./=@+-]*(://[\w./=@+-]+)?")  # what YAML takes as it is
_NO_TEXT: Final = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")  # but for these


class Kubernetes(Target):
    """kubectl, in the cluster and namespace of its context. Paths lie on the PersistentVolumeClaim `claim`."""

    tool = "kubectl"
    tool_hint = "install kubectl and give it a context, or leave --submit out and `kubectl create -f FILE` where it is"

    def __init__(self, image: str | None, claim: str | None, kubeflow: bool) -> None:
        self._image, self._claim, self._kubeflow = image or IMAGE, claim, kubeflow

    def check(self, job: Job) -> list[str]:
        """Pods see URLs, and paths on the claim, which is mounted at the first folder of the paths."""
        check_in_reach(job, "pods")
        paths = _paths(job)
        for flag, path in paths.items():
            if self._claim is None or not path.is_absolute():
                raise UsageError(
                    f"{flag} {path}: pods do not share the disk of this machine",
                    "name a URL such as s3://bucket/folder, or a path like /data/folder on a volume, and its --claim",
                )
        if len({path.parts[1:2] for path in paths.values()}) > 1:
            named = " and ".join(map(str, paths.values()))
            raise UsageError(f"{named} are on two volumes, and --claim is one", "put them below one folder, as /data")
        if self._claim is not None and not paths:
            raise UsageError(f"--claim {self._claim}: neither --data nor --output is a path on it", "leave it out")
        return []

    def is_in_sight(self, data: Place) -> bool:
        return isinstance(data, Url)

    def missing(self, job: Job) -> list[Missing]:  # noqa: ARG002 (as others need it)
        return [Missing(IMAGE, "--image URI")] if self._image == IMAGE else []

    def write(self, job: Job) -> str:
        template = "trainjob.yaml" if self._kubeflow else "job.yaml"
        texts = [fill(template, {**self.header(job), **self._values(job, run)}) for run in job.runs]
        return "---\n".join([texts[0], *("apiVersion:" + text.partition("apiVersion:")[2] for text in texts[1:])])

    def _values(self, job: Job, run: Run) -> dict[str, str | int | tuple[str, ...] | None]:
        kept = job.forecast.kept_bytes
        mount = next((Path(*path.parts[:2]) for path in _paths(job).values()), None)
        return {
            "name": run.name,
            "image": _yaml(self._image),
            "nodes": job.nodes,
            "ranks": job.ranks,
            "gpus": job.ranks if job.on_gpus else None,
            "cores": job.ranks * _CORES[job.on_gpus],
            "memory": job.ranks * _GIBIBYTES[job.on_gpus],
            "disk": None if kept is None else math.ceil(kept / 2**30) + _SPARE,
            "failures": _FAILURES * job.nodes,
            "seconds": job.forecast.limit_seconds,
            "words": tuple(_yaml(word) for words in job.words(run) for word in words),
            "mount": None if mount is None else _yaml(str(mount)),
            "group": None if self._claim is None else _GROUP,
            "claim": None if self._claim is None else _yaml(self._claim),
        }

    def submit(self, job: Job, text: str) -> Submitted:
        names = [run.name for run in job.runs]
        kinds = "trainjob" if self._kubeflow else "job,service"
        self._check_claim(job)
        try:
            self.call("create", "--dry-run=server", "--filename", "-", text=text, doing="the job")
        except ImagesprintError as error:
            if "AlreadyExists" in error.what:
                error.hint = f"`kubectl delete {kinds} {' '.join(names)}`, then this again: it goes on where that ended"
            raise
        made = self.call("create", "--output", "name", "--filename", "-", text=text, doing="the job")
        label = "jobset.sigs.k8s.io/jobset-name" if self._kubeflow else "batch.kubernetes.io/job-name"
        return Submitted(
            made.split(),
            follow=[f"kubectl logs --follow --prefix --selector {label}={name}" for name in names],
            stop=[f"kubectl delete {kinds} {name}" for name in names],
            resume=["once it is deleted, the same command: it goes on from the newest checkpoint"],
        )

    def _check_claim(self, job: Job) -> None:
        if self._claim is None:
            return
        asked = ("get", "persistentvolumeclaim", self._claim, "--output", "jsonpath={.spec.accessModes}")
        modes = self.call(*asked, doing=f"--claim {self._claim}")
        if job.nodes * len(job.runs) > 1 and "ReadWriteMany" not in modes:
            raise UsageError(
                f"--claim {self._claim} is {modes}: {job.nodes * len(job.runs)} pods cannot write to it at once",
                "name a claim that is ReadWriteMany, or URLs for --data and --output",
            )


def _paths(job: Job) -> dict[str, Path]:
    """The flags of the places that are paths, and those."""
    places = {"--data": job.data, "--output": job.output}
    return {flag: place for flag, place in places.items() if isinstance(place, Path)}


def _yaml(word: str) -> str:
    """`word` as YAML has it, in quotes only where it needs them."""
    plain = _PLAIN.fullmatch(word) and word.isascii() and word.lower() not in _NO_TEXT
    return word if plain else json.dumps(word)
