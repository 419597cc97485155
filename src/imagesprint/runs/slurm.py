"""SLURM: what its variables say of this process, a task of a step of a job. No torch, and no command of SLURM's.

The variables are those of srun(1), OUTPUT ENVIRONMENT VARIABLES. A step is what one `srun` starts; the script of
`sbatch` itself is none, nor is a shell of `salloc`, so neither is taken for a rank.
"""

import os
import re
from itertools import chain

from imagesprint.errors import RankError
from imagesprint.runs.environment import Launch, RankEnvironment

# Steps of one job, and jobs that share a machine, meet at ports of their own: below those that Linux gives to outgoing
# connections, and beside torchrun's 29500.
_PORTS = range(15000, 29000)
_STEPS = 61  # by which the ports of a job lie above those of the job before; prime, so that they spread
_LOOPBACK = "127.0.0.1"
_HINT = "start the ranks by `srun imagesprint train …`, which sets it, or by torchrun"


def find_task() -> Launch | None:
    """Return this process as one of the tasks of its step; None where it is none, or the only one.

    The tasks are ranks in their order, or, with `--processes`, start ranks. Raises RankError where the variables are
    incomplete, no numbers, or where the nodes have not the same number of tasks, in the order of the nodes.
    """
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return None
    tasks, task = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_PROCID")
    local, node = _number("SLURM_LOCALID"), _number("SLURM_NODEID")
    nodes = expand_nodes(_text("SLURM_STEP_NODELIST"))
    each = expand_counts(_text("SLURM_STEP_TASKS_PER_NODE"))
    if len(set(each)) > 1 or task != node * each[0] + local:
        raise RankError(
            f"SLURM's tasks are not dealt evenly, node by node: {each} of them on {len(nodes)} nodes, and task {task} "
            f"is number {local} on node {node}",
            "give srun --ntasks-per-node=N and --distribution=block",
        )
    address, interface = (nodes[0], "") if len(nodes) > 1 else (_LOOPBACK, "lo")
    place = RankEnvironment(task, tasks, local, each[0])
    return Launch("SLURM", place, address, port_of_step(), interface)


def describe_job() -> str:
    """Return which job this process belongs to and how often it was requeued, for a person; "" where to none."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return ""
    step, nodes = os.environ.get("SLURM_STEP_ID", ""), os.environ.get("SLURM_JOB_NODELIST", "")
    again = os.environ.get("SLURM_RESTART_COUNT", "0")
    parts = [f"SLURM's job {job}", *([f"step {step}"] if step else []), *([f"on {nodes}"] if nodes else [])]
    times = {"0": "", "1": ", requeued once"}.get(again, f", requeued {again} times")
    return f"{' '.join(parts)}{times}"


def has_own_gpu() -> bool:
    """Whether this may be a task to which SLURM shows one GPU, its own, alone, as `--gpus-per-task=1` does."""
    return "RANK" not in os.environ and find_task() is not None


def has_own_cores(cores: int) -> bool:
    """Whether SLURM gave this task its share of the node's cores, where it may use as many `cores`: not all tasks'."""
    on_node, task = os.environ.get("SLURM_CPUS_ON_NODE", ""), find_task()
    if "RANK" in os.environ or task is None or not on_node.isdecimal():
        return False
    return cores * task.place.local_world_size <= int(on_node)


def port_of_step() -> int:
    """Return the port at which the tasks of this step meet: another one for each step of a job."""
    job, step = _number("SLURM_JOB_ID"), _number("SLURM_STEP_ID")
    return _PORTS[(job * _STEPS + step) % len(_PORTS)]


def expand_nodes(text: str) -> list[str]:
    """Return the names in a list of nodes as SLURM writes it: `gpu[01-03,7],login` → gpu01, gpu02, gpu03, gpu7, login.

    Raises RankError where it is none.
    """
    names = re.findall(r"((?:[^,\[\]]|\[[0-9,-]+\])+)(?:,|$)", text)
    if not text or ",".join(names) != text:
        raise RankError(f"{text!r} is no list of SLURM's nodes", _HINT)
    return list(chain.from_iterable(map(_expand, names)))


def _expand(name: str) -> list[str]:
    """The names that one with brackets stands for: `rack[0-1]n[1-2]` has two pairs, the last one runs fastest."""
    before, bracket, rest = name.partition("[")
    if not bracket:
        return [name]
    spans, _, behind = rest.partition("]")
    found = []
    for span in spans.split(","):
        first, _, last = span.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        found += [f"{before}{number:0{len(first)}d}" for number in numbers]
    return [f"{start}{end}" for start in found for end in _expand(behind)]


def expand_counts(text: str) -> list[int]:
    """Return how many tasks each node has, as SLURM writes it: `2(x3),1` → 2, 2, 2, 1. Raises RankError."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if not all(parts):
        raise RankError(f"{text!r} is no list of SLURM's tasks on each node", _HINT)
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def _text(name: str) -> str:
    if name not in os.environ:
        raise RankError(f"SLURM_STEP_NUM_TASKS is set but {name} is not", _HINT)
    return os.environ[name]


def _number(name: str) -> int:
    text = _text(name)
    if not text.isdecimal():
        raise RankError(f"the environment variable {name} is {text!r}, not a number", f"unset it; {_HINT}")
    return int(text)
