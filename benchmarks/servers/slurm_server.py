"""A real SLURM for tests and benchmarks: Debian's slurm-wlm, a controller and nodes that are all this machine.

All of it lives in namespaces of its own, for processes and mounts: it ends as one, with the jobs, and the nodes have
names that /etc/hosts has in there alone.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from server_process import Server, free_ports

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "unshare")
_SETTINGS = """\
ClusterName=imagesprint
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,bf_interval=1
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_NODE = (
    "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000 State=UNKNOWN"
)
_START = """\
mount --bind {folder}/hosts /etc/hosts
for node in {names}; do slurmd -f {folder}/slurm.conf -N $node -D & done
exec slurmctld -f {folder}/slurm.conf -D
"""
_POLL_SECONDS = 0.1
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE")


def is_slurm_there() -> bool:
    """Whether this machine has what it takes, and this process the rights: those of root."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return os.getuid() == 0 and all(shutil.which(program, path=path) for program in _PROGRAMS)


class SlurmServer(Server):
    """`environment` is what SLURM's commands need to find it. Its nodes are node1, node2, …"""

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 1) -> None:
        """Keep all in `folder`; each node has as many `cpus` to give away, whatever the machine has."""
        port, *ports = free_ports(1 + nodes)
        names = [f"node{number}" for number in range(1, nodes + 1)]
        rows = [_NODE.format(name=name, port=own, cpus=cpus) for name, own in zip(names, ports, strict=True)]
        (folder / "state").mkdir(parents=True, exist_ok=True)
        (folder / "slurm.conf").write_text(_SETTINGS.format(folder=folder, port=port, nodes="\n".join(rows)))
        lines = [f"127.0.0.1 {name}" for name in ("localhost", socket.gethostname(), *names)]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "start.sh").write_text(_START.format(folder=folder, names=" ".join(names)))
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
        self._nodes = nodes
        words = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            str(folder / "start.sh"),
        ]
        super().__init__(words, folder, {"PATH": path})

    def is_ready(self) -> bool:
        """Whether all nodes wait for work."""
        return self.run("sinfo", "--noheader", "--Node", "--format=%t").split() == ["idle"] * self._nodes

    def run(self, *words: object) -> str:
        """Return what one of SLURM's commands prints, "" where it fails."""
        environment = os.environ | self.environment
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, check=False)
        return done.stdout if done.returncode == 0 else ""

    def submit(self, *words: object) -> int:
        """Submit a job by `sbatch WORDS`; returns its number. Raises RuntimeError where SLURM refuses it."""
        environment = os.environ | self.environment
        command = ["sbatch", "--parsable", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"sbatch refuses: {done.stderr}")
        return int(done.stdout.strip().split(";")[0])

    def job(self, number: int) -> dict[str, str]:
        """Return what SLURM knows of a job: JobState, Restarts, ExitCode, Reason, RunTime, …"""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", number)))

    def await_end(self, number: int, seconds: float) -> dict[str, str]:
        """Wait until a job has ended for good, and return what SLURM knows of it. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while (job := self.job(number)).get("JobState") not in ENDED:
            if time.monotonic() > end:
                raise TimeoutError(f"job {number} is still {job.get('JobState')} ({job.get('Reason')})")
            time.sleep(_POLL_SECONDS)
        return job
