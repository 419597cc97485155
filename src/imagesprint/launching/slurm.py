"""SLURM: a script for sbatch, one task a rank, which is queued again at its time limit until the run is finished."""

import shlex
import sys
from pathlib import Path
from typing import Final

from imagesprint.launching.job import Job, Run, check_shared, seeded
from imagesprint.launching.target import Missing, Submitted, Target
from imagesprint.launching.templates import fill

_CORES: Final = "--cpus-per-task=8"  # a GPU; most machines have 8 to 28 for each
_INDEX: Final = "$SLURM_ARRAY_TASK_ID"  # the indices of the array are the seeds


class Slurm(Target):
    """sbatch. What is set in the environment (SBATCH_PARTITION) or edited in the file goes through as it is."""

    tool = "sbatch"
    tool_hint = "call this on a login node of the cluster, or --save FILE and `sbatch FILE` there"

    def check(self, job: Job) -> list[str]:
        return check_shared(job)

    def missing(self, job: Job) -> list[Missing]:  # noqa: ARG002 (as others need it)
        return []  # accounts and partitions have defaults, or sbatch says that they are wanted

    def write(self, job: Job) -> str:
        programs = Path(sys.executable).parent
        run = Run(job.name, seeded(job.output, _INDEX), _INDEX) if job.seeds else job.runs[0]
        command, *flags = (" ".join(map(_quoted, words)) for words in job.words(run))
        return fill(
            "slurm.sh",
            {
                **self.header(job),
                "name": job.name,
                "log": "%x-%A_%a.log" if job.seeds else "%x-%j.log",
                "seeds": ",".join(map(str, job.seeds)) or None,
                "nodes": job.nodes,
                "ranks": job.ranks,
                "gpus": job.ranks if job.on_gpus else None,
                "cores": _CORES if job.on_gpus else "--exclusive",
                "minutes": job.forecast.limit_minutes,
                "programs": shlex.quote(str(programs)) if (programs / "imagesprint").exists() else None,
                "command": command,
                "flags": tuple(flags),
            },
        )

    def submit(self, job: Job, text: str) -> Submitted:
        number = self.call("--parsable", text=text, doing="the job").partition(";")[0]
        log = f"{job.name}-{number}{'_*' if job.seeds else ''}.log"
        again = "the same command, or `sbatch` of its file: it goes on from the newest checkpoint"
        return Submitted([number], [f"squeue --job {number}", f"tail -F {log}"], [f"scancel {number}"], [again])


def _quoted(word: str) -> str:
    """`word` as bash takes it, with the array's index still a variable."""
    return f'"{_INDEX}"'.join(shlex.quote(part) if part else "" for part in word.split(_INDEX))
