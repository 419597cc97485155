"""A training that a real SLURM strikes at its time limit and queues again, beside one that nothing happens to.

    python benchmarks/slurm.py [--json]

Needs Debian's slurmctld, slurmd and slurm-client, and root. Two nodes, both this machine, with one task each; the job
is that of `imagesprint launch slurm demo`, with more epochs, so that there is time to strike. The time limit is cut
once the run has logged steps: SLURM then sends SIGUSR1 at its next look, within half a minute, the job ends saved and
is queued again, and the second time has time enough. All lies in a folder of /srv: one below /tmp would not be shared
by the nodes of a cluster, and `launch` refuses it.

Prints what came to pass, and whether the struck run ended with the bits of the other, logged every step once and says
that it was requeued. Exits 3 where that does not hold; all is kept then.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos_invariants import broken_promises, rows
from digits import prepare_digits

sys.path.insert(0, str(Path(__file__).with_name("servers")))
from slurm_server import ENDED, SlurmServer, is_slurm_there

IMAGES = 1797  # all
EPOCHS = "phases.2.epochs=8,16"
SECONDS = 900  # for one job, at most
CUT_MINUTES = 2  # the lead of the job's SIGUSR1: it is due at once


def submit(server: SlurmServer, data: Path, run: Path) -> int:
    """Launch the job as a user does; returns its number."""
    words = ["launch", "slurm", "demo", "--data", data, "--output", run, "--nodes", 2, "--processes", 1]
    words += ["--set", EPOCHS, "--submit", "--json"]
    launch = [sys.executable, "-m", "imagesprint", *map(str, words)]
    environment = os.environ | server.environment | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, capture_output=True, text=True, env=environment, cwd=run.parent, check=False)
    if done.returncode:
        raise RuntimeError(f"launch failed: {done.stdout}{done.stderr}")
    return int(json.loads(done.stdout)["submitted"]["jobs"][0])


def strike(server: SlurmServer, number: int, run: Path) -> dict[str, Any]:
    """Cut the time limit of a job that has logged steps, wait until it is queued again, and give it time enough."""
    await_that(server, number, lambda _: (run / "metrics.jsonl").exists())
    cut = time.monotonic()
    server.run("scontrol", "update", f"JobId={number}", f"TimeLimit={CUT_MINUTES}")
    await_that(server, number, lambda job: (job.get("Restarts"), job.get("JobState")) == ("1", "PENDING"))
    seconds = time.monotonic() - cut
    # SLURM lets a job that was requeued wait for two minutes, within which a node may refuse it as the one that it has
    # just ended ("Job credential revoked", seen after 0.2 s): a few seconds do here.
    time.sleep(10)
    server.run("scontrol", "update", f"JobId={number}", "TimeLimit=60", "StartTime=now")
    return {"seconds_until_struck_saved_and_queued": seconds}


def await_that(server: SlurmServer, number: int, holds: Callable[[dict[str, str]], bool]) -> None:
    """Wait until that holds of a job. Raises RuntimeError where it ends before."""
    while not holds(job := server.job(number)):
        if job.get("JobState") in ENDED:
            raise RuntimeError(f"job {number} ended too early: {job['JobState']}, exit code {job['ExitCode']}")
        time.sleep(0.1)


def compare(run: Path, reference: Path, job: dict[str, str]) -> list[str]:
    """Return what does not hold of the struck run, in words."""
    broken = broken_promises(run, reference)
    if (job["JobState"], job["Restarts"]) != ("COMPLETED", "1"):
        broken.append(f"the job is {job['JobState']} after {job['Restarts']} restarts")
    commands = [row for row in rows(run / "commands.jsonl") if "began" in row]
    if [row["ranks"] for row in commands] != [2, 2] or commands[-1]["step"] == 0:
        broken.append(f"the commands had {[row['ranks'] for row in commands]} ranks")
    if ", requeued once" not in (run / "log.txt").read_text():
        broken.append("log.txt does not say that the job was requeued")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not is_slurm_there():
        print("error: there is no SLURM, or this is not root\nhint: apt-get install slurmctld slurmd", file=sys.stderr)
        return 2
    scratch, begun = Path(tempfile.mkdtemp(prefix="imagesprint-slurm-", dir="/srv")), time.monotonic()
    data, run, reference = prepare_digits(scratch, IMAGES), scratch / "struck", scratch / "quiet"
    (scratch / "server").mkdir()
    server = SlurmServer(scratch / "server")
    try:
        number = submit(server, data, run)
        figures = strike(server, number, run)
        job = server.await_end(number, SECONDS)
        server.await_end(submit(server, data, reference), SECONDS)
    except Exception:
        print(f"kept: {scratch}", file=sys.stderr)
        raise
    finally:
        server.kill()
    broken = compare(run, reference, job)
    stops = [row["step"] for row in rows(run / "commands.jsonl") if "ended" in row]
    figures |= {"stopped_at": stops[0], "steps": stops[-1], "seconds": time.monotonic() - begun}
    if args.json:
        print(json.dumps({"bench": "slurm", "device": "cpu", **figures, "broken": broken}))
    else:
        told = [f"- {name.replace('_', ' ')}: {value:.0f}" for name, value in figures.items()]
        print("\n".join([*told, f"- promises broken: {'; '.join(broken) or 'none'}"]))
    if broken:
        print(f"kept: {scratch}", file=sys.stderr)
        return 3
    shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
