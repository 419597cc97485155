"""A SageMaker training job of two hosts on this machine, started as SageMaker does and by AWS's own container drivers.

    python benchmarks/sagemaker_drivers.py [--drivers FOLDER] [--json]

FOLDER is where `pip install --no-deps --target FOLDER sagemaker-train` has put the drivers; `make
.remote/sagemaker/installed` puts them into .remote/sagemaker. Each host has namespaces of its own: /opt/ml is its file
tree, its name is algo-1 or algo-2, and both have addresses of the loopback. The job is that of `imagesprint launch
sagemaker demo`, on digits in a channel, in two processes on each host.

- contract: `imagesprint train` is all the container is given, as its first process.
- script: AWS's script of a job whose command that is; its environment.py makes the SM_… variables.
- torchrun: AWS's driver for torchrun, whose entry script calls `imagesprint train`.
- interrupted: as the first, with SIGTERM to both hosts, as before a spot instance goes; then new hosts, that get
  /opt/ml/checkpoints as SageMaker keeps it.
- failing: AWS's script with a hyperparameter that does not exist.

Prints what each left where, and what does not hold: results at the contract's places, the same bits of all that end
well, our error as the reason of the failure. Exits 3 where something does not; all is kept then.
"""

import argparse
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import psutil
from chaos_invariants import broken_promises, last_checkpoint, rows
from digits import prepare_digits

DRIVERS = Path(__file__).parents[1] / ".remote/sagemaker"
IMAGES = 300
HOSTS = ("algo-1", "algo-2")
PROCESSES = 2
SECONDS = 300  # for one job
SET = "phases.2.epochs=8,10"
# AWS's script makes a variable of each hyperparameter, and so takes no dot in its name.
OF_SCRIPT = {f"set.{SET.partition('=')[0]}": "", "set": json.dumps([SET])}
COMMAND = "imagesprint train"
ENTRY = "import sys\nfrom imagesprint.cli.main import main\nsys.exit(main(['train']))\n"
# What lies in /opt stays there, behind links.
INSIDE = """\
set -e
hostname {host}
mount --bind {scratch}/hosts /etc/hosts
mkdir -p {scratch}/opt-{host}
mount --rbind /opt {scratch}/opt-{host}
mount -t tmpfs tmpfs /opt
for entry in {scratch}/opt-{host}/*; do ln -s "$entry" /opt/; done
mkdir -p /opt/ml
mount --rbind {tree} /opt/ml
cd /
exec {words}
"""


@cache
def launched() -> dict[str, str]:
    """Return the hyperparameters of a job as `launch` writes them, but for the data, which come by a channel here."""
    words = ["launch", "sagemaker", "demo", "--data", "s3://bucket/digits", "--output", "s3://bucket/run", "--json"]
    words += ["--nodes", str(len(HOSTS)), "--processes", str(PROCESSES), "--set", SET]
    command = [sys.executable, "-m", "imagesprint", *words]
    request = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["requests"][0]
    assert request["AlgorithmSpecification"]["ContainerArguments"] == COMMAND.split()[1:]
    return {key: value for key, value in request["HyperParameters"].items() if key != "data"}


class Job:
    """A job's hosts: their file trees, and what runs on them."""

    def __init__(self, scratch: Path, data: Path, name: str, drivers: Path, **hyperparameters: str) -> None:
        """`hyperparameters` differ from those of `launch`; an empty one is left out."""
        self.name, self._scratch, self._drivers = name, scratch, drivers
        self.trees = {host: scratch / name / host for host in HOSTS}
        for host, tree in self.trees.items():
            files = {
                "resourceconfig": {
                    "current_host": host, "hosts": list(HOSTS), "network_interface_name": "lo",
                    "current_instance_type": "ml.m5.large",
                },
                "hyperparameters": {key: value for key, value in (launched() | hyperparameters).items() if value},
                "inputdataconfig": {"data": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}},
            }  # fmt: skip
            for folder in ("input/config", "input/data", "checkpoints", "model", "output/data"):
                (tree / folder).mkdir(parents=True)
            for file, content in files.items():
                (tree / f"input/config/{file}.json").write_text(json.dumps(content))
            (tree / "input/data/data").symlink_to(data)

    def give_drivers(self, of_torchrun: bool) -> str:
        """Put AWS's drivers where a job of its SDK has them; returns the command of the container."""
        templates = runpy.run_path(str(self._drivers / "sagemaker/train/templates.py"))
        parts = {"working_dir": "", "install_requirements": ""}
        parts["execute_driver"] = templates["EXECUTE_BASE_COMMANDS"].format(base_command=COMMAND)
        if of_torchrun:
            parts["working_dir"] = "cd /opt/ml/input/data/code"
            driver = {"driver_name": "Torchrun", "driver_script": "torchrun_driver.py"}
            parts["execute_driver"] = templates["EXEUCTE_DISTRIBUTED_DRIVER"].format(**driver)
        for tree in self.trees.values():
            to = tree / "input/data/sm_drivers"
            shutil.copytree(self._drivers / "sagemaker/train/container_drivers", to)
            (to / "sm_train.sh").write_text(templates["TRAIN_SCRIPT_TEMPLATE"].format(**parts).lstrip())
            (tree / "input/data/code").mkdir()
            (tree / "input/data/code/train.py").write_text(ENTRY)
            (to / "sourcecode.json").write_text(json.dumps({"entry_script": "train.py"} if of_torchrun else {}))
            (to / "distributed.json").write_text(
                json.dumps({"process_count_per_node": PROCESSES} if of_torchrun else {})
            )
        return "/bin/bash /opt/ml/input/data/sm_drivers/sm_train.sh"

    def start(self, words: str = COMMAND) -> list["subprocess.Popen[bytes]"]:
        """Start the containers of all hosts, whose first process is `words`; returns what holds them."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "TRAINING_JOB_NAME": self.name, "OMP_NUM_THREADS": "1"}
        apart = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        apart += ["--map-root-user"] if os.getuid() else []
        return [
            subprocess.Popen(
                [*apart, "sh", "-c", INSIDE.format(host=host, scratch=self._scratch, tree=tree, words=words)],
                env=environment, stdin=subprocess.DEVNULL, stdout=(tree / "log").open("ab"), stderr=subprocess.STDOUT,
            )
            for host, tree in self.trees.items()
        ]  # fmt: skip

    def run(self, words: str = COMMAND) -> list[int]:
        """Run the job to its end; returns the exit code of each host's first process."""
        return [container.wait(SECONDS) for container in self.start(words)]

    def interrupt(self) -> list[int]:
        """Run the job until the first rows are logged, and end it as SageMaker does; returns the exit codes."""
        containers, run = self.start(), self.trees[HOSTS[0]] / "checkpoints"
        while not (run / "metrics.jsonl").exists():
            time.sleep(0.02)
            if any(container.poll() is not None for container in containers):
                raise RuntimeError(f"{self.name} ended before it was interrupted: see {self.trees[HOSTS[0]] / 'log'}")
        for container in containers:
            psutil.Process(container.pid).children()[0].send_signal(signal.SIGTERM)
        return [container.wait(SECONDS) for container in containers]

    @property
    def run_directory(self) -> Path:
        return self.trees[HOSTS[0]] / "checkpoints"


def replace_hosts(job: Job, scratch: Path, data: Path, drivers: Path) -> Job:
    """Return the job on new hosts, to which SageMaker has brought what the first host had in /opt/ml/checkpoints."""
    again = Job(scratch, data, f"{job.name}-again", drivers)
    for tree in again.trees.values():
        shutil.copytree(job.run_directory, tree / "checkpoints", dirs_exist_ok=True)
        (tree / "checkpoints/log.txt.sagemaker-uploaded").touch()
    return again


def check_delivered(job: Job, codes: list[int], reference: Job) -> list[str]:
    """Return what does not hold of a job that is to have ended well, in words."""
    first, second = (job.trees[host] for host in HOSTS)
    broken = [] if codes == [0, 0] else [f"exit codes {codes}"]
    if not (first / "model/model.pt").exists():
        return [*broken, "there is no model"]
    if (first / "model/model.pt").read_bytes() != max(job.run_directory.glob("checkpoints/*.pt")).read_bytes():
        broken.append("the model is not the last checkpoint")
    missing = {"report.html", "result.json", "metrics.jsonl", "log.txt"} - set(os.listdir(first / "output/data"))
    if missing:
        broken.append(f"/opt/ml/output/data lacks {', '.join(sorted(missing))}")
    if list((second / "model").iterdir()) or (first / "output/failure").exists():
        broken.append("the second host has a model, too, or there is a reason of a failure")
    if [row["ranks"] for row in rows(job.run_directory / "commands.jsonl") if "began" in row][-1] != 2 * PROCESSES:
        broken.append("not all ranks took part")
    return broken + (broken_promises(job.run_directory, reference.run_directory) if job is not reference else [])


def run_all(scratch: Path, data: Path, drivers: Path) -> dict[str, list[str]]:
    """Run each kind of job; returns by its name what does not hold of it."""
    (scratch / "hosts").write_text("127.0.0.1 localhost algo-1\n127.0.0.2 algo-2\n")
    reference = Job(scratch, data, "contract", drivers)
    broken = {"contract": check_delivered(reference, reference.run(), reference)}
    for name, of_torchrun in (("script", False), ("torchrun", True)):
        job = Job(scratch, data, name, drivers, **OF_SCRIPT, **({"processes": ""} if of_torchrun else {}))
        broken[name] = check_delivered(job, job.run(job.give_drivers(of_torchrun)), reference)
    job = Job(scratch, data, "interrupted", drivers)
    codes = job.interrupt()
    stopped_at = last_checkpoint(job.run_directory)["step"]
    again = replace_hosts(job, scratch, data, drivers)
    broken["interrupted"] = check_delivered(again, again.run(), reference)
    if codes != [143, 143] or not (job.trees[HOSTS[0]] / "model/model.pt").exists():
        broken["interrupted"].append(f"interrupted after step {stopped_at} it ended with {codes}, or without a model")
    job = Job(scratch, data, "failing", drivers, **OF_SCRIPT, keeep="all")
    codes = job.run(job.give_drivers(of_torchrun=False))
    reasons = [(tree / "output/failure").read_text() for tree in job.trees.values()]
    right = all(reason.startswith("error: unknown flag '--keeep'\nhint: did you mean --keep?") for reason in reasons)
    broken["failing"] = [] if codes == [2, 2] and right else [f"exit codes {codes}, reasons {reasons}"]
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drivers", type=Path, default=DRIVERS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not (args.drivers / "sagemaker/train/container_drivers").is_dir():
        print(f"error: no drivers of AWS's in {args.drivers}\nhint: make .remote/sagemaker/installed", file=sys.stderr)
        return 2
    scratch, begun = Path(tempfile.mkdtemp(prefix="sagemaker-")), time.monotonic()
    broken = run_all(scratch, prepare_digits(scratch, IMAGES), args.drivers.resolve())
    seconds = time.monotonic() - begun
    if args.json:
        print(json.dumps({"bench": "sagemaker", "device": "cpu", "seconds": seconds, "broken": broken}))
    else:
        print("\n".join(f"- {name}: {'; '.join(found) or 'all holds'}" for name, found in broken.items()))
        print(f"\n{seconds:.0f} s")
    if any(broken.values()):
        print(f"kept: {scratch}", file=sys.stderr)
        return 3
    shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
