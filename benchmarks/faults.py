"""Lets each call to the file system fail, one at a time: a small `prepare`, a small `train` of two ranks, its resume.

    python benchmarks/faults.py [--commands prepare,train,resume] [--once] [--sample N,…] [--seed 0] [--only TEXT]
                                [--json]

`faults.c`, preloaded, counts the calls of an undisturbed command on anything below one folder, the source, ROOT, RUN,
TMPDIR and the cache, and then has the n-th one of its kind on its path fail, in each way that such a call may (`WAYS`).
The command must end with one message that names the path and what was done to it, or come to what the undisturbed one
came to. The same command again must come to the same: every byte of a ROOT; a run's weights, evaluations and logs.
Prints a table in Markdown; exits 3 where a promise is broken. --once has each call fail in one of its ways, which take
turns. --sample takes so many injections of each command (one number, or one a command), by chance, but each operation
on each path before any a second time; --only those with TEXT in their line of the table. Ranks look into the file over
which they meet until the others have been there, so that some calls on it come in one run, but not in another: such an
injection counts as "not reached". Needs a C compiler.
"""

import argparse
import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from chaos_invariants import broken_promises
from digits import prepare_digits
from PIL import Image

from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import to_toml

SHORT = -1  # of faults.c
RANKS = 2
WAYS: dict[str, tuple[str, ...]] = {  # what each operation may come to
    "create": ("ENOSPC", "ENOSPC lasting", "EIO"),
    "open": ("EIO", "EINTR"),
    "read": ("EIO", "EINTR", "short"),
    "pread": ("EIO", "EINTR", "short"),
    "write": ("ENOSPC", "ENOSPC lasting", "EIO", "EINTR", "short"),
    "pwrite": ("ENOSPC", "EIO", "EINTR", "short"),
    "fsync": ("ENOSPC", "EIO", "EINTR"),
    "truncate": ("EIO", "EINTR"),
    "lock": ("ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINTR"),
    "unlock": ("ENOLCK", "EINTR"),
    "close": ("ENOSPC", "EIO"),
    "rename": ("ENOSPC", "EIO"),
    "link": ("ENOSPC", "EIO"),
    "mkdir": ("ENOSPC lasting", "EIO"),
    "unlink": ("EIO",),
    "rmdir": ("EIO",),
    "list": ("EIO",),
    "stat": ("EIO",),
}
TEMPORARY = re.compile(r"(?<=/)\.([^/]+)\.\d+\.tmp$")  # the name that `files.write_atomically` gives
TEMPORARY_SHARD = re.compile(r"\.parts/(\d+|full)-(.+)\.\d+\.tmp$")
SAID, WENT_ON, NOT_REACHED = "said", "went on", "not reached"  # verdicts; any other one is what is wrong
MEETING = "tmp/#/store"
OPERATION = re.compile(r"cannot (be )?(\w+)|no (space|image|checkpoint|file)|lock")


@dataclass(frozen=True)
class Fault:
    """The `nth` call of `operation` on `path`, by the process of `role`, comes to `way`."""

    role: int
    operation: str
    path: str
    nth: int
    way: str

    def task(self) -> dict[str, object]:
        name = self.way.split()[0]
        error = SHORT if name == "short" else int(getattr(errno, name))
        return {**asdict(self), "error": error, "lasting": self.way.endswith("lasting")}


@dataclass(frozen=True)
class Outcome:
    """What an injection came to."""

    fault: Fault
    code: str
    said: str
    verdict: str

    @property
    def is_bad(self) -> bool:
        """Whether a promise is broken: where ranks meet over a file, some calls on it come in one run only."""
        meeting = self.fault.path == MEETING and self.verdict == NOT_REACHED
        return not (meeting and self.code == "0") and self.verdict not in (SAID, WENT_ON)


@dataclass(frozen=True)
class Command:
    """A command line, what it makes and how that is compared: `differences(found, expected)` in words.

    `begun` is what is there before it begins.
    """

    name: str
    words: list[str]
    result: str  # below the place
    differences: Callable[[Path, Path], list[str]]
    begun: Path | None = None


class Faults:
    """A place below `scratch`, and the process that carries out commands there."""

    def __init__(self, scratch: Path) -> None:
        self.place, self._scratch = scratch / "place", scratch
        self.place.mkdir()
        library = scratch / "faults.so"
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True)
        self._server = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("faults_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()

    def calls(self, command: Command) -> Counter[tuple[int, str, str]]:
        """Count the calls of the undisturbed command, whose result is kept as what is expected."""
        self._clear(command)
        code, said = self._run(command, None)
        assert code == "0", said
        shutil.rmtree(self._expected(command), ignore_errors=True)
        shutil.copytree(self.place / command.result, self._expected(command))
        lines = (self._scratch / "log").read_text().splitlines()
        fields = [line.split("\t") for line in lines]
        return Counter((int(role), operation, path) for role, operation, path, _ in fields)

    def inject(self, command: Command, fault: Fault) -> Outcome:
        """Carry out the command with the fault, then again without."""
        self._clear(command)
        code, said = self._run(command, fault)
        hit = [line.split("\t") for line in (self._scratch / "log").read_text().splitlines() if line[:3] == "HIT"]
        wrong = self._wrong(command, fault, code, said, hit[0][3]) if hit else NOT_REACHED
        message = said.partition("error: ")[2].partition("\nhint: ")[0]
        verdict = WENT_ON if code == "0" else SAID
        if not wrong:
            code_again, said_again = self._run(command, None)
            wrong = f"again: exit code {code_again}: {said_again}" if code_again != "0" else ""
            wrong = wrong or self._misfit(command, "again: ")
        told = said if wrong else message or said
        return Outcome(fault, code, told.replace(str(self.place), "…"), wrong or verdict)

    def _wrong(self, command: Command, fault: Fault, code: str, said: str, path: str) -> str:
        """Return what is wrong with the end of a command in which `fault` struck a call on `path`, or nothing."""
        if code == "0":
            return self._misfit(command, "exit code 0, but ", tmp=not path.startswith("tmp/"))
        if code not in ("1", "2"):
            return f"ends with {code}"
        if "Traceback" in said or "this is a bug" in said or len(re.findall("^error: ", said, re.MULTILINE)) != 1:
            return "no clear message"
        names = {path, TEMPORARY.sub(r"\1", path), TEMPORARY_SHARD.sub(r"\1/\2", path)}
        whole = [str(self.place / name) if name != "." else str(self.place) for name in names]
        if path.endswith(" (deleted)"):  # no name is left to be told but the folder's
            whole.append(str((self.place / path).parent))
        if path.startswith("tmp/"):
            whole.append(str(self.place / "tmp"))
        message = said.partition("error: ")[2].partition("\nhint: ")[0]
        if fault.way.endswith("lasting"):  # on a full disk another file may be the first to say so
            whole = [str(self.place)]
        if not any(name in message for name in whole):
            return "the message does not name the path"
        return "" if OPERATION.search(message) else "the message does not name the operation"

    def _misfit(self, command: Command, before: str, tmp: bool = True) -> str:
        """Return what is wrong with what the command left; in TMPDIR, what it could not remove, the next one does."""
        found = command.differences(self.place / command.result, self._expected(command))
        found += [f"left over: {file}" for file in self.place.glob("tmp/*imagesprint-*") if tmp]
        return before + "; ".join(found) if found else ""

    def _expected(self, command: Command) -> Path:
        return self._scratch / f"expected-{command.name}"

    def _clear(self, command: Command) -> None:
        for name in (command.result, "tmp", "cache"):
            shutil.rmtree(self.place / name, ignore_errors=True)
        (self.place / "tmp").mkdir()
        if command.begun is not None:
            shutil.copytree(command.begun, self.place / command.result)

    def _run(self, command: Command, fault: Fault | None) -> tuple[str, str]:
        task = {
            "words": command.words,
            "place": str(self.place),
            "log": str(self._scratch / "log"),
            "stdout": str(self._scratch / "stdout"),
            "stderr": str(self._scratch / "stderr"),
            "environment": {"TMPDIR": str(self.place / "tmp"), "XDG_CACHE_HOME": str(self.place / "cache")},
            "fault": fault.task() if fault else None,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(task), file=self._server.stdin, flush=True)
        return self._server.stdout.readline().strip(), (self._scratch / "stderr").read_text()


def prepare_command(place: Path) -> Command:
    """Ten photos of noise: two are no JPEG, one is damaged, one is in both splits."""
    source, generator = place / "source", np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1)):
        for name in ("a", "b"):
            folder = source / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    Image.open(source / "train/a/0.jpg").save(source / "train/a/3.png")
    (source / "train/b/3.jpg").write_bytes((source / "train/b/0.jpg").read_bytes()[:-200])
    shutil.copy(source / "val/a/0.jpg", source / "train/a/4.jpg")
    words = ["prepare", str(source), str(place / "root"), "--variants", "full,16", "--shards", "2", "--workers", "1"]
    return Command("prepare", [*words, "--max-rejected", "0.5", "--quiet"], "root", other_files)


def other_files(found: Path, expected: Path) -> list[str]:
    """Return which files are missing, too many or of other bytes."""
    ours, theirs = _contents(found), _contents(expected)
    return [str(name) for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def _contents(folder: Path) -> dict[Path, str]:
    files = (path for path in folder.rglob("*") if not path.is_dir())
    digests = {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return digests | {path.relative_to(folder): "" for path in folder.rglob("*") if path.is_dir()}


def train_command(place: Path) -> Command:
    """Two ranks, a ResNet-20, eight steps with four checkpoints of which the last two stay, two evaluations."""
    if not (place / "data").exists():
        prepare_digits(place, 40)
        shutil.rmtree(place / "images")
    sizes = {"eval_source": "16", "eval_resize": 16, "eval_image_size": 16, "eval_batch_size": 4, "eval_every": 1}
    phases = tuple(Phase((n, n + 1), (0.1, 0.1), "constant", 8, 4, 16, ("16", "full")[n], 0.3) for n in range(2))
    recipe = Recipe(name="faults", model="resnet20", precision="fp32", phases=phases, **sizes)
    (place / "faults.toml").write_text(to_toml(recipe))
    words = [
        *("train", str(place / "faults.toml"), "--data", str(place / "data"), "--output", str(place / "run")),
        *("--processes", str(RANKS), "--checkpoint-every", "2", "--keep", "last:2", "--device", "cpu", "--quiet"),
    ]
    return Command("train", words, "run", broken_promises)


def resume_command(place: Path) -> Command:
    """The same, begun by a command that was killed after its fourth step; a kill left a file half written."""
    train, begun = train_command(place), place.parent / "begun"
    shutil.rmtree(place / train.result, ignore_errors=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "imagesprint", *train.words, "--stop-after", "4"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
    (place / train.result).rename(begun)
    (begun / "checkpoints/.step-0000006.pt.1.tmp").touch()
    history = begun / "commands.jsonl"
    history.write_text(history.read_text().splitlines(keepends=True)[0])
    return replace(train, name="resume", begun=begun)


COMMANDS = {"prepare": prepare_command, "train": train_command, "resume": resume_command}


def all_faults(calls: Counter[tuple[int, str, str]]) -> list[Fault]:
    """Return every call in each way."""
    return [
        Fault(role, operation, path, nth, way)
        for (role, operation, path), count in sorted(calls.items())
        for nth in range(1, count + 1)
        for way in WAYS[operation]
    ]


def once(faults: list[Fault]) -> list[Fault]:
    """Return every call of `all_faults` in one way: those of an operation take turns."""
    calls: dict[Fault, None] = dict.fromkeys(replace(fault, way="") for fault in faults)
    turns = {operation: itertools.cycle(ways) for operation, ways in WAYS.items()}
    return [replace(call, way=next(turns[call.operation])) for call in calls]


def sample(faults: list[Fault], count: int, generator: random.Random) -> list[Fault]:
    """Return so many, by chance, but each operation of a role on a path once before any of them twice."""
    seen: Counter[tuple[int, str, str]] = Counter()
    rounds: list[tuple[int, int]] = []
    shuffled = generator.sample(faults, len(faults))
    for number, fault in enumerate(shuffled):
        key = (fault.role, fault.operation, fault.path)
        rounds.append((seen[key], number))
        seen[key] += 1
    return [shuffled[number] for _, number in sorted(rounds)[:count]]


def to_text(outcomes: list[Outcome], calls: int) -> str:
    """Return the tables for people, in Markdown."""
    bad = [one for one in outcomes if one.is_bad]
    unreached = sum(one.verdict == NOT_REACHED for one in outcomes)
    lines = [f"{calls} calls, {len(outcomes)} injections, {unreached} not reached, {len(bad)} bad", ""]
    lines += [
        "| operation | way | injections | said, with path and operation | went on | not reached | bad |",
        "|---|---|---|---|---|---|---|",
    ]
    for operation, ways in WAYS.items():
        for way in ways:
            own = [one for one in outcomes if (one.fault.operation, one.fault.way) == (operation, way)]
            verdicts = Counter("bad" if one.is_bad else one.verdict for one in own)
            if own:
                counts = (len(own), *(verdicts[name] for name in (SAID, WENT_ON, NOT_REACHED, "bad")))
                lines.append(f"| {operation} | {way} | {' | '.join(map(str, counts))} |")
    lines += ["", "| role | call | how often | exit | message | verdict |", "|---|---|---|---|---|---|"] if bad else []
    alike: dict[tuple[object, ...], list[Outcome]] = {}
    for one in bad:
        alike.setdefault((one.fault.role, one.fault.operation, one.fault.path, one.verdict[:40]), []).append(one)
    for first, *others in alike.values():
        said = " ".join(first.said.split())[:300]
        lines.append(
            f"| {first.fault.role} | {_title(first.fault)} | {1 + len(others)} | {first.code} | {said} "
            f"| {' '.join(first.verdict.split())[:300]} |"
        )
    return "\n".join(lines)


def _title(fault: Fault) -> str:
    return f"{fault.operation} {fault.path}, {fault.nth}, {fault.way}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--sample", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # in which to sync takes no time
    scratch, begun = Path(tempfile.mkdtemp(prefix="faults-", dir=memory)), time.monotonic()
    faults, found = Faults(scratch), {}
    try:
        names = args.commands.split(",")
        counts = [int(word) for word in args.sample.split(",") if word] or [10**9]
        for name, count in zip(names, counts * len(names) if len(counts) == 1 else counts, strict=True):
            command = COMMANDS[name](faults.place)
            calls = faults.calls(command)
            chosen = once(all_faults(calls)) if args.once else all_faults(calls)
            chosen = [fault for fault in chosen if args.only in _title(fault)]
            chosen = sample(chosen, count, random.Random(args.seed))
            outcomes = []
            for fault in chosen:
                outcomes.append(faults.inject(command, fault))
                print(outcomes[-1], file=sys.stderr, flush=True)
            found[name] = (sum(calls.values()), outcomes)
    finally:
        faults.close()
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        tables = {name: [asdict(one) for one in outcomes] for name, (_, outcomes) in found.items()}
        print(json.dumps({"bench": "faults", "device": "cpu", "versions": {"torch": torch.__version__}, **tables}))
    else:
        for name, (count, outcomes) in found.items():
            print(f"## {name}\n\n{to_text(outcomes, count)}\n")
        print(f"{time.monotonic() - begun:.0f} s")
    return 3 if any(one.is_bad for _, outcomes in found.values() for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
