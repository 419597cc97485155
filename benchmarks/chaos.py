"""Strikes at real trainings, at random: each must end by itself or with one clear error, and come to the same bits.

    python benchmarks/chaos.py [--strikes 100] [--seed 0] [--processes 2,4] [--kinds KIND,…] [--images 300] [--json]

Trains a ResNet-20 on 300 of scikit-learn's digits, 210 steps of four micro-batches (fewer images, fewer steps), in two
and in four processes by turns. A command is struck after a few checkpoints, or while it starts; then the same words are
given again, until the run is done. Strikes are spent on one run after another. Prints a table of strikes and outcomes
in Markdown. Exits 3 where a promise is broken; the run is kept then.

Run directories lie on a tmpfs of 64 MB where this process may mount one (`disk full` fills it; elsewhere it is a limit
on the size of rank 0's files). The clock is set wrong by `chaos_clock.c`, preloaded: it needs gcc.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from chaos_invariants import broken_promises
from digits import prepare_digits

TMPFS_BYTES = 64 << 20
RANK_TIMEOUT = 5  # seconds: --rank-timeout
PATIENCE = 90  # seconds for a command to end once it was struck
STARTING = 0.15  # the share of strikes that come while the command starts


@dataclass
class Place:
    """Where all lies."""

    scratch: Path
    runs: Path
    data: Path
    clock: Path | None
    mounted: bool


@dataclass
class Command:
    """One `imagesprint train`: the launcher and its ranks."""

    place: Place
    run: Path
    processes: int
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> "Command":
        words = [
            *("train", "demo", "--data", self.place.data, "--output", self.run, "--processes", self.processes),
            *("--set", "phases.*.batch_size=16", "--set", "phases.*.micro_batch=4", "--checkpoint-every", 5),
            *("--keep", "last:3,best", "--rank-timeout", RANK_TIMEOUT, "--device", "cpu", "--quiet"),
        ]
        self.stderr = (self.place.scratch / "stderr").open("w+")
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", "imagesprint", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=self.stderr,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.place.scratch / "tmp")} | self.environment,
        )
        return self

    def family(self) -> list[psutil.Process]:
        """The launcher and its ranks, whoever is alive, in the order of ranks."""
        try:
            launcher = psutil.Process(self.launcher.pid)
            return [launcher, *sorted(launcher.children(recursive=True), key=lambda process: process.pid)]
        except psutil.NoSuchProcess:
            return []

    def ended(self) -> bool:
        return self.launcher.poll() is not None

    def finish(self, family: list[psutil.Process]) -> tuple[int, str, str]:
        """Wait; returns the exit code, what was printed, and what was wrong about the end ("" if nothing)."""
        wrong = ""
        try:
            self.launcher.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            wrong = f"still there after {PATIENCE} s"
        _, alive = psutil.wait_procs(family, timeout=15)
        if alive and not wrong:
            wrong = f"{len(alive)} orphans"
        for process in alive:
            process.kill()
        self.launcher.wait()
        self.stderr.seek(0)
        code = self.launcher.returncode
        return 128 - code if code < 0 else code, self.stderr.read(), wrong


def newest(run: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    return max((int(file.stem[5:]) for file in (run / "checkpoints").glob("step-*.pt")), default=0)


Strike = Callable[[Command, list[psutil.Process], random.Random], str]


def kill_rank(_: Command, family: list[psutil.Process], generator: random.Random) -> str:
    victim = generator.randrange(1, len(family))
    family[victim].kill()
    return f"rank {victim - 1}"


def kill_all(_: Command, family: list[psutil.Process], __: random.Random) -> str:
    for process in family:
        process.kill()
    return ""


def kill_launcher(_: Command, family: list[psutil.Process], __: random.Random) -> str:
    family[0].kill()
    return ""


def sigterm(_: Command, family: list[psutil.Process], generator: random.Random) -> str:
    number = generator.choice([signal.SIGTERM, signal.SIGUSR1])
    family[0].send_signal(number)
    return number.name


def ctrl_c(command: Command, _: list[psutil.Process], __: random.Random) -> str:
    os.killpg(command.launcher.pid, signal.SIGINT)
    return "to the group"


def stop_rank(_: Command, family: list[psutil.Process], generator: random.Random) -> str:
    victim = generator.randrange(1, len(family))
    family[victim].suspend()
    return f"rank {victim - 1}"


def pause_rank(_: Command, family: list[psutil.Process], generator: random.Random) -> str:
    victim = generator.randrange(1, len(family))
    family[victim].suspend()
    time.sleep(1)
    family[victim].resume()
    time.sleep(0.5)
    family[0].terminate()
    return f"rank {victim - 1} for 1 s, then SIGTERM"


def damage_checkpoint(command: Command, family: list[psutil.Process], generator: random.Random) -> str:
    kill_all(command, family, generator)
    command.launcher.wait()
    psutil.wait_procs(family, timeout=10)
    files = sorted((command.run / "checkpoints").glob("step-*.pt"))
    if not files:
        return "killed before there was one"
    content = bytearray(files[-1].read_bytes())
    place = generator.randrange(len(content))
    if generator.random() < 0.5:
        files[-1].write_bytes(content[:place])
        return f"{files[-1].name} cut to {place} bytes, after kill -9 of all"
    content[place] ^= 1 << generator.randrange(8)
    files[-1].write_bytes(content)
    return f"a bit of {files[-1].name} flipped, after kill -9 of all"


def disk_full(command: Command, family: list[psutil.Process], _: random.Random) -> str:
    if not command.place.mounted:
        resource.prlimit(family[min(1, len(family) - 1)].pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
        return "RLIMIT_FSIZE"
    with (command.place.runs / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(1 << 16))
        except OSError:
            pass
    return "tmpfs filled"


STRIKES: dict[str, Strike] = {
    "kill -9 of a rank": kill_rank,
    "kill -9 of all": kill_all,
    "kill -9 of the launcher": kill_launcher,
    "SIGTERM or SIGUSR1": sigterm,
    "Ctrl-C": ctrl_c,
    "SIGSTOP of a rank": stop_rank,
    "SIGSTOP then SIGCONT": pause_rank,
    "checkpoint damaged": damage_checkpoint,
    "disk full": disk_full,
    "shard unreadable": sigterm,  # before the command starts, which cannot come to this: see `strike_command`
    "clock jump": sigterm,  # likewise before, and the run goes on in it until it is stopped
}
KILLS = ("kill -9 of all", "kill -9 of the launcher", "checkpoint damaged")


@dataclass
class Outcome:
    """One strike: `broken` is empty where all promises were kept."""

    number: int
    processes: int
    kind: str
    detail: str
    at_step: int
    code: int
    said: str
    broken: str


def strike_command(place: Place, run: Path, processes: int, kind: str, generator: random.Random) -> Outcome | None:
    """Start the command, strike it and wait for its end; None where the run was done before the strike."""
    command, shard = Command(place, run, processes), None
    if kind == "clock jump" and place.clock:
        shift = generator.choice([-1, 1]) * generator.randrange(3600, 400 * 86400)
        command.environment = {"LD_PRELOAD": str(place.clock), "CLOCK_SHIFT": str(shift)}
    if kind == "shard unreadable":
        shard = generator.choice(sorted((place.data / "full").glob("train-0*")))
        shard.rename(shard.with_suffix(".away"))
    command.start()
    try:
        if shard is not None:
            return _outcome(command, command.family(), kind, shard.stem, newest(run))
        wait_for_moment(command, generator)
        while len(command.family()) <= processes and not command.ended():
            time.sleep(0.02)  # there is no rank to strike yet
        step, family = newest(run), command.family()
        if command.ended():
            return None if command.launcher.returncode == 0 else _outcome(command, family, kind, "", step)
        detail = STRIKES[kind](command, family, generator)
        return _outcome(command, family, kind, detail, step)
    except (psutil.NoSuchProcess, ProcessLookupError):  # it ended in that very moment
        return _outcome(command, [], kind, "at its end", newest(run))
    finally:
        if shard is not None:
            shard.with_suffix(".away").rename(shard)
        (place.runs / "ballast").unlink(missing_ok=True)


def wait_for_moment(command: Command, generator: random.Random) -> None:
    """Wait for a random moment: while the command starts, or some checkpoints later."""
    if generator.random() < STARTING:
        time.sleep(generator.uniform(0, 4))
        return
    until = newest(command.run) + generator.randrange(5, 45)
    while newest(command.run) < until and not command.ended():
        time.sleep(0.02)
    time.sleep(generator.uniform(0, 0.2))


def _outcome(command: Command, family: list[psutil.Process], kind: str, detail: str, step: int) -> Outcome:
    code, printed, wrong = command.finish(family)
    errors = [line for line in printed.splitlines() if line.startswith("error:")]
    expected = {"SIGTERM or SIGUSR1": 143, "SIGSTOP then SIGCONT": 143, "clock jump": 143, "Ctrl-C": 130}.get(kind, 1)
    if "Traceback" in printed:
        wrong = wrong or "a traceback"
    elif kind in KILLS:
        pass  # the launcher could say nothing
    elif code not in (0, expected):
        wrong = wrong or f"exit code {code}, not {expected}"
    elif code == 1 and len(errors) != 1:
        wrong = wrong or f"{len(errors)} errors"
    said = errors[0].removeprefix("error: ") if errors else ""
    return Outcome(0, command.processes, kind, detail, step, code, said.replace(str(command.place.scratch), "…"), wrong)


def make_place(scratch: Path, images: int) -> Place:
    """Prepare the digits, mount the tmpfs and build the clock."""
    data, runs = prepare_digits(scratch, images), scratch / "runs"
    runs.mkdir()
    (scratch / "tmp").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "none", str(runs)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode == 0
    clock: Path | None = scratch / "clock.so"
    build = ["gcc", "-shared", "-fPIC", "-O1", str(Path(__file__).with_name("chaos_clock.c")), "-o", str(clock), "-ldl"]
    if shutil.which("gcc") is None or subprocess.run(build, check=False).returncode:
        clock = None
    return Place(scratch, runs, data, clock, mounted)


def chaos(
    place: Place, strikes: int, worlds: list[int], kinds: list[str], generator: random.Random
) -> tuple[list[Outcome], list[str]]:
    """Spend the strikes; returns their outcomes, and the promises that whole runs broke."""
    references = {}
    for processes in worlds:
        command = Command(place, place.runs / f"reference-{processes}", processes).start()
        code, printed, _ = command.finish([])
        assert code == 0, printed
        references[processes] = command.run
    outcomes: list[Outcome] = []
    broken: list[str] = []
    bag: list[str] = []
    for number in range(10**9):
        if len(outcomes) >= strikes:
            return outcomes, broken
        processes = worlds[number % len(worlds)]
        run, struck = place.runs / f"run-{number}", 0
        while len(outcomes) < strikes:
            bag = bag or generator.sample(kinds, len(kinds))
            outcome = strike_command(place, run, processes, bag[-1], generator)
            if outcome is None:
                break
            bag.pop()
            outcome.number, struck = len(outcomes) + 1, struck + 1
            outcomes.append(outcome)
            print(outcome, file=sys.stderr, flush=True)
        code, printed, wrong = Command(place, run, processes).start().finish([])
        found = [f"exit code {code}: {printed}"] if code else broken_promises(run, references[processes])
        found += [wrong] if wrong else []
        found += [f"left in TMPDIR: {file.name}" for file in (place.scratch / "tmp").glob("imagesprint-*")]
        broken += [f"run {number} on {processes} processes, {struck} strikes: {what}" for what in found]
        print(f"run {number}: {struck} strikes, {found or 'sound'}", file=sys.stderr, flush=True)
        if not found:
            shutil.rmtree(run)
    return outcomes, broken


def to_text(outcomes: list[Outcome], broken: list[str]) -> str:
    """Return the tables for people, in Markdown."""
    lines = ["| strike | how often | exit codes | promises broken |", "|---|---|---|---|"]
    for kind in sorted({outcome.kind for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        codes = ", ".join(f"{code} × {sum(one.code == code for one in own)}" for code in sorted({o.code for o in own}))
        lines.append(f"| {kind} | {len(own)} | {codes} | {sum(bool(one.broken) for one in own)} |")
    lines += ["", f"Runs that broke a promise: {len(broken)}", *(f"- {what}" for what in broken), ""]
    lines += ["| # | processes | strike | at step | exit | what it said | broken |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {one.number} | {one.processes} | {one.kind}{', ' if one.detail else ''}{one.detail} | {one.at_step} "
        f"| {one.code} | {one.said} | {one.broken} |"
        for one in outcomes
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strikes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", default="2,4")
    parser.add_argument("--kinds", default=",".join(STRIKES))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="chaos-"))
    place, begun = make_place(scratch, args.images), time.monotonic()
    worlds = [int(word) for word in args.processes.split(",")]
    try:
        outcomes, broken = chaos(place, args.strikes, worlds, args.kinds.split(","), random.Random(args.seed))
    finally:
        if place.mounted:
            subprocess.run(["umount", "--lazy", str(place.runs)], check=False)
    bad = broken + [f"strike {one.number}: {one.broken}" for one in outcomes if one.broken]
    seconds = time.monotonic() - begun
    if args.json:
        versions = {"torch": torch.__version__}
        print(json.dumps({"bench": "chaos", "device": "cpu", "versions": versions, "seed": args.seed,
                          "seconds": seconds, "strikes": [vars(one) for one in outcomes], "broken": bad}))  # fmt: skip
    else:
        print(f"{len(outcomes)} strikes, seed {args.seed}, in {seconds:.0f} s\n\n{to_text(outcomes, broken)}")
    shutil.rmtree(scratch, ignore_errors=True)
    return 3 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
