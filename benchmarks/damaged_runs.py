"""Flips bytes in the files of a run, one at a time, and gives it to the commands that read it.

    python benchmarks/damaged_runs.py [--flips 1000] [--seed 0] [--files NAME,…] [--commands NAME,…] [--workers N]

Trains a ResNet-20 on scikit-learn's digits for a few steps, evaluates and reports it. Of each file of that run a random
byte is changed to another; the run is then given to `train`, which resumes, `evaluate`, `report`, `doctor` and
`inspect`, each in a process of its own. Right is an error of ours with a hint, or the same weights, figures and logged
steps as from the whole run (other steps where a warning says so). Wrong is a Python error, a crash, a hang, other
weights or figures, or a row that is lost without a word. `result.json` is that of the same run when it is finished.

A command for which a file was not opened while it had the whole run is not given the damaged one: it would read the
same. Prints a table in Markdown, and all that is wrong. Exits 3 where anything is.
"""

import argparse
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: many small commands run side by side

import torch._dynamo
from digits import prepare_digits
from matplotlib.figure import Figure

from imagesprint.cli.main import main as carry_out
from imagesprint.diagnosis.accuracy import accuracy_checks
from imagesprint.diagnosis.doctor import diagnose_run
from imagesprint.evaluating.checkpoints import evaluate_checkpoints
from imagesprint.report.report import write_report
from imagesprint.runs.logs import read_scalars
from imagesprint.training.training import train

# What the verbs import when they are called: here once, for all processes forked from this one.
IMPORTED: Final = (torch._dynamo, train, evaluate_checkpoints, write_report, accuracy_checks, diagnose_run)
COMMANDS: Final = ("train", "evaluate", "report", "doctor", "inspect")
SECONDS: Final = 60  # that a command may take
TRAINING: Final = ("--device", "cpu", "--checkpoint-every", "1", "--keep", "last:2")
RECIPE: Final = """\
name = "damaged"
model = "resnet20"
precision = "fp32"
eval_source = "16"
eval_resize = 16
eval_image_size = 16
eval_batch_size = 12
phases = [
    { epochs = [0, 1], lr = [0.01, 0.1], method = "linear", batch_size = 16, micro_batch = 8, image_size = 16 },
    { epochs = [1, 2], lr = [0.1, 0.01], method = "cosine", batch_size = 16, micro_batch = 8, image_size = 16 },
]
"""
SAME, WARNED, ERROR, UNREAD = "same", "same, with a warning", "error", "not read"
RIGHT: Final = (SAME, WARNED, ERROR, UNREAD)


class Place:
    """The data, the recipe, and the whole runs: `stopped` after an epoch and a step, and `finished`."""

    def __init__(self, scratch: Path, data: Path) -> None:
        self.scratch, self.data, self.recipe = scratch, data, scratch / "tiny.toml"
        self.recipe.write_text(RECIPE)
        self.stopped, self.finished = scratch / "stopped", scratch / "finished"

    def words(self, command: str, run: Path) -> list[str]:
        """The command line for `run`."""
        words: dict[str, Sequence[object]] = {
            "train": (self.recipe, "--data", self.data, "--output", run, *TRAINING),
            "evaluate": (run, "--data", self.data, "--device", "cpu", "--flip"),  # which was not asked before
            "report": (run,),
            "doctor": (run,),
            "inspect": (self.data, "--run", run, "--step", 2, "--output", run / "sheet.png"),
        }
        return [command, *map(str, words[command]), "--json"]

    def make(self) -> None:
        """Train, stop, evaluate and report the one run, and train its copy to the end."""
        for words in (
            [*self.words("train", self.stopped), "--stop-after", "4"],
            ["evaluate", str(self.stopped), "--data", str(self.data), "--device", "cpu", "--json"],
            self.words("report", self.stopped),
        ):
            done = self._wait(words)
            assert done["code"] == 0, done
        shutil.copytree(self.stopped, self.finished)
        done = self._wait(self.words("train", self.finished))
        assert done["code"] == 0, done

    def _wait(self, words: list[str]) -> dict[str, Any]:
        target = self.scratch / "made"
        os.waitpid(start(words, None, target), 0)
        return read_outcome(target, 0)


@dataclass(frozen=True)
class Trial:
    """One command for a run with one byte changed in `file`."""

    file: str
    command: str
    place: int
    byte: int


def draw_once() -> None:
    """Have each figure drawn once, by what is in it: drawing takes most of a report, and what is read no part of it."""
    drawn: set[bytes] = set()
    savefig = Figure.savefig

    def draw_what_is_new(figure: Figure, *args: Any, **kwargs: Any) -> None:
        shown = hashlib.sha256()
        for artist in figure.findobj():
            shown.update(repr((type(artist), artist.get_label(), getattr(artist, "get_text", str)())).encode())
            data = getattr(artist, "get_xydata", lambda: None)()
            shown.update(b"" if data is None else data.tobytes())
            for path in getattr(artist, "get_paths", list)():
                shown.update(path.vertices.tobytes())
        if shown.digest() not in drawn:
            drawn.add(shown.digest())
            savefig(figure, *args, **kwargs)

    Figure.savefig = draw_what_is_new  # type: ignore[method-assign]


def warm(place: Place, commands: Iterable[str]) -> None:
    """Carry out the commands on copies of the whole runs in this process: what they import, all that follow have."""
    said = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for source in (place.stopped, place.finished):
        for command in commands:
            run = place.scratch / "warm"
            shutil.copytree(source, run)
            for number in (1, 2):
                os.dup2(nowhere, number)
            code = carry_out(place.words(command, run))
            sys.stdout.flush()
            for number, stream in zip((1, 2), said, strict=True):
                os.dup2(stream, number)
            assert code in (0, 3), command
            shutil.rmtree(run)
    gc.freeze()  # or each process copies all that is here, only to look whether it is garbage


def start(words: list[str], run: Path | None, target: Path) -> int:
    """Begin to carry out `words` in a process of its own, which leaves what came of it in the folder `target`.

    With `run`, that includes the run's weights and logged steps, and its files that were opened.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.alarm(SECONDS)
        os.chdir(target)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        opened = _opened(run) if run is not None else set()
        sys.argv = ["imagesprint", *words]
        code = carry_out()
        sys.stdout.flush()
        if run is not None:
            facts = {"opened": sorted(opened)} | (_facts(run) if words[0] == "train" and code == 0 else {})
            (target / "facts").write_text(json.dumps(facts))
    finally:
        os._exit(code)


def _opened(run: Path) -> set[str]:
    """The files within `run` that this process opens from now on; grows."""
    found: set[str] = set()
    root = str(run) + os.sep

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            path = os.fspath(arguments[0])
            if isinstance(path, str) and path.startswith(root):
                found.add(path.removeprefix(root))

    sys.addaudithook(hook)
    return found


def _facts(run: Path) -> dict[str, Any]:
    newest = max((run / "checkpoints").glob("step-*.pt"))
    digest = hashlib.sha256()
    for key, value in torch.load(newest, weights_only=True)["model"].items():
        digest.update(key.encode() + value.numpy().tobytes())
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    shown = [step for step, _, _ in read_scalars(run / "tensorboard").get("loss/total", [])]
    return {"weights": f"{newest.name} {digest.hexdigest()}", "steps": [rows, shown]}


def read_outcome(target: Path, status: int) -> dict[str, Any]:
    """What a process that ended with `status` left: its code (minus a signal), what it printed, and facts."""
    said = {name: (target / name).read_text(errors="replace") for name in ("stdout", "stderr")}
    facts = json.loads((target / "facts").read_text()) if (target / "facts").exists() else {}
    try:
        value = json.loads(said["stdout"])
    except ValueError:
        value = None
    return {"code": os.waitstatus_to_exitcode(status), "value": value, **said, **facts}


def judge(command: str, whole: dict[str, Any], done: dict[str, Any]) -> str:
    """One of RIGHT, or what is wrong with what a command did with a damaged run beside what it did with the whole."""
    value = done["value"] if isinstance(done["value"], dict) else {}
    if "Traceback" in done["stderr"] or "this is a bug" in str(value.get("hint", "")):
        return "a Python error"
    if done["code"] < 0:
        return "a hang" if done["code"] == -signal.SIGALRM else "a crash"
    if "error" in value:
        return ERROR if value["error"] and value["hint"] and done["code"] == value["exit_code"] else "half an error"
    if done["code"] not in (0, 3) or not value:
        return f"exit code {done['code']} without an error"
    warned = done["stderr"].count("warning:") > whole["stderr"].count("warning:")
    if command == "train" and done["weights"] != whole["weights"]:
        return "other weights"
    if command == "train" and done["steps"] != whole["steps"] and not warned:
        return "a row lost without a word"
    if command == "evaluate" and [_figures(one) for one in value["checkpoints"]] != [
        _figures(one) for one in whole["value"]["checkpoints"]
    ]:
        return "other figures"
    return WARNED if warned else SAME


def _figures(checkpoint: dict[str, Any]) -> list[Any]:
    return [checkpoint[key] for key in ("step", "epoch", "num_images", "top1", "top5", "loss")]


def undisturbed(place: Place, commands: Iterable[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """What each of the commands does with the whole runs, by the run's name; twice the same, or it says nothing."""
    found = {}
    for source in (place.stopped, place.finished):
        for command in commands:
            outcomes = []
            for number in range(2):
                run, target = place.scratch / f"whole-{number}", place.scratch / "made"
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(source, run)
                status = os.waitpid(start(place.words(command, run), run, target), 0)[1]
                outcomes.append(read_outcome(target, status))
            verdict = judge(command, *outcomes)
            assert verdict == SAME, (source, command, verdict, outcomes)
            found[source.name, command] = outcomes[0]
    return found


def draw(
    place: Place, wholes: dict[tuple[str, str], dict[str, Any]], names: list[str], flips: int, seed: int
) -> Iterator[Trial | tuple[str, str]]:
    """All trials, and as (file, command) those that need none because the command does not open the file."""
    for name in names:
        source = source_of(place, name)
        content = (source / name).read_bytes()
        generator = random.Random(f"{seed} {label(name)}")
        places = [(generator.randrange(len(content)), generator.randrange(1, 256)) for _ in range(flips)]
        for command in (command for run, command in wholes if run == source.name):
            if name not in wholes[source.name, command]["opened"]:
                yield name, command
                continue
            yield from (Trial(name, command, at, content[at] ^ change) for at, change in places)


def source_of(place: Place, name: str) -> Path:
    """The run that `name` is a file of: the stopped one, but for what only a finished one has."""
    return place.stopped if (place.stopped / name).exists() else place.finished


def label(name: str) -> str:
    """A file's name as the table has it: without host, time and process."""
    return f"{Path(name).parent}/events" if "tfevents" in name else f"{name.split('-')[0]}-….json" if (
        name.startswith("evaluated")
    ) else name  # fmt: skip


def strike(place: Place, trial: Trial, slot: int) -> int:
    """Damage a copy of the run and start the command on it."""
    run = place.scratch / f"slot-{slot}"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(source_of(place, trial.file), run)
    with (run / trial.file).open("r+b") as file:
        file.seek(trial.place)
        file.write(bytes([trial.byte]))
    return start(place.words(trial.command, run), run, place.scratch / f"target-{slot}")


@dataclass
class Table:
    """The verdicts of each file and command, and the trials that were wrong."""

    verdicts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, file: str, command: str, verdict: str) -> None:
        self.verdicts.setdefault((label(file), command), Counter())[verdict] += 1

    def text(self) -> str:
        """In Markdown."""
        commands = [name for name in COMMANDS if any(name == command for _, command in self.verdicts)]
        lines = [f"| file | {' | '.join(commands)} |", f"|---|{'---|' * len(commands)}"]
        for file in dict.fromkeys(file for file, _ in self.verdicts):
            cells = [_cell(self.verdicts.get((file, command), Counter())) for command in commands]
            lines.append(f"| {file} | {' | '.join(cells)} |")
        return "\n".join([*lines, "", f"wrong: {len(self.wrong)}", *(f"- {what}" for what in self.wrong)])


def _cell(counts: Counter[str]) -> str:
    return "; ".join(f"{verdict} {count}" if verdict != UNREAD else verdict for verdict, count in counts.most_common())


def run_trials(place: Place, names: list[str], commands: list[str], flips: int, seed: int, workers: int) -> Table:
    """All of them, so many at a time."""
    wholes, table = undisturbed(place, commands), Table()
    running: dict[int, tuple[Trial, int]] = {}
    free = list(range(workers))

    def finish() -> None:
        child, status = os.wait()
        trial, slot = running.pop(child)
        done = read_outcome(place.scratch / f"target-{slot}", status)
        verdict = judge(trial.command, wholes[source_of(place, trial.file).name, trial.command], done)
        table.add(trial.file, trial.command, verdict)
        if verdict not in RIGHT:
            said = f"{done['stdout']} {done['stderr']}".strip().replace("\n", " ")[-600:]
            table.wrong.append(f"{trial.command} on {trial}: {verdict}: {said}")
        free.append(slot)

    for trial in draw(place, wholes, names, flips, seed):
        if isinstance(trial, tuple):
            table.add(*trial, UNREAD)
            continue
        if not free:
            finish()
        slot = free.pop()
        running[strike(place, trial, slot)] = (trial, slot)
    while running:
        finish()
    return table


def files_of(place: Place, wanted: Sequence[str]) -> list[str]:
    """The files of both runs that are not empty and, where some are `wanted`, whose name begins with one of those."""
    found = {
        str(file.relative_to(run))
        for run in (place.stopped, place.finished)
        for file in run.rglob("*")
        if file.is_file() and file.stat().st_size
    }
    kept = {name for name in found if (place.stopped / name).exists() or name == "result.json"}
    return sorted(name for name in kept if not wanted or name.startswith(tuple(wanted)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000, help="of each file; default 1000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", default="", help="beginnings of their names; default all")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    memory = Path("/dev/shm")  # the commands sync what they write
    scratch = Path(tempfile.mkdtemp(prefix="damaged-", dir=memory if memory.is_dir() else None))
    try:
        place, begun = Place(scratch, prepare_digits(scratch, 60)), time.monotonic()
        place.make()
        commands = args.commands.split(",")
        draw_once()
        warm(place, commands)
        names = files_of(place, [name for name in args.files.split(",") if name])
        table = run_trials(place, names, commands, args.flips, args.seed, args.workers)
        trials = sum(counts.total() - counts[UNREAD] for counts in table.verdicts.values())
        print(f"{trials:,} commands, {args.flips:,} flips a file, seed {args.seed}, {time.monotonic() - begun:.0f} s\n")
        print(table.text())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 3 if table.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
