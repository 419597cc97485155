"""Strikes at trainings whose data and run lie in S3, at random: clear ends, and the bits of a run on a disk.

    python benchmarks/remote_strikes.py [--strikes 100] [--seed 0] [--processes 1,2] [--kinds KIND,…] [--images 150]

Trains a ResNet-20 on 150 of scikit-learn's digits, 98 steps, with `--data s3://…` and `--output s3://…`, in one and
in two processes by turns, two of four runs with a cache that has no room for the data. A proxy stands before the store.
Each command is struck at random moments, by one strike after another, until it ends; then the same words are given
again, until the run is done. Then all that lies at its URL is held against an undisturbed run from and to a disk.
Prints tables in Markdown, also after Ctrl-C, which leaves the last run unjudged; exits 3 where a promise is broken.

The cache lies on a tmpfs of 48 MB, which `cache disk full` fills for a while: it needs the rights to mount one.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from digits import prepare_digits
from remote_strikes_checks import EVERY, KEPT, broken_at

sys.path.insert(0, str(Path(__file__).with_name("servers")))

from fault_proxy import FaultProxy, Faults
from imagesprint.storage.store import open_store
from imagesprint.storage.url import Url
from s3_server import S3Server

DISK_BYTES = 48 << 20
SMALL_CACHE = "40KB"  # less than the two shards of a variant have
# Seconds for a command to end after its last strike. It may take a request (40: `attempts.LIMIT`) at its start, another
# one for a record, the end of a run that was stopped (60: `mirror.STOP_SECONDS`), and the training itself.
PATIENCE = 240
MOST_COMMANDS = 20  # in one run, after its last strike
FAULTS = {  # for two to eight seconds
    "answers late": Faults(latency=0.5),
    "500": Faults(error_share=0.4, error=(500, "InternalError")),
    "503 SlowDown": Faults(error_share=0.6),
    "bodies cut": Faults(truncate_share=0.3),
    "connections cut": Faults(reset_share=0.3),
    "bits flipped": Faults(corrupt_share=0.3),
    "no answers": Faults(hang=True),
    "refused": Faults(refuse=True),
    "credentials expired": Faults(error_share=1.0, error=(403, "ExpiredToken")),
}
KILLS = ("kill -9 of a trainer", "kill -9 of all", "kill -9 of all with the cache")
HELPERS = {"kill -9 of the fetcher": "records.remote.fetcher", "kill -9 of the mirror": "runs.mirror_process"}
KINDS = (*KILLS, *HELPERS, "SIGTERM", "store killed", "cache disk full", *FAULTS)


@dataclass
class Place:
    """Where all lies, and what came of it."""

    scratch: Path
    server: S3Server
    proxy: FaultProxy
    references: dict[int, Path] = field(default_factory=dict)
    ends: dict[str, Counter[str]] = field(default_factory=dict)  # of commands, by the strike that was their last
    longest: dict[str, float] = field(default_factory=dict)  # seconds from that strike to the end
    struck: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.scratch / "disk" / "cache"


class Command:
    """One `imagesprint train`, with all that it starts."""

    def __init__(self, place: Place, data: object, output: object, processes: int, *flags: str) -> None:
        self.strikes: list[str] = []
        self._place, self._mark = place, os.urandom(8).hex()
        self._stderr = (place.scratch / "stderr").open("w+")
        words = ["train", "demo", "--data", str(data), "--output", str(output), "--processes", str(processes)]
        words += ["--set", "phases.*.batch_size=16", "--set", "phases.*.micro_batch=4", "--device", "cpu", "--quiet"]
        words += ["--checkpoint-every", str(EVERY), "--keep", f"last:{KEPT},best", "--cache", str(place.cache), *flags]
        own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(place.scratch / "tmp"), "STRIKES_MARK": self._mark}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imagesprint", *words],
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
            env=os.environ | own | {"AWS_ENDPOINT_URL": place.proxy.endpoint},
        )
        self.struck_at = time.monotonic()

    def has_ended(self, seconds: float = 0.0) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def family(self) -> list[psutil.Process]:
        """All processes that are alive of this command, and the fetcher of the command before it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_own = process.environ().get("STRIKES_MARK") == self._mark
                is_fetcher = str(self._place.cache) == process.environ().get("IMAGESPRINT_CACHE")
                if is_own or is_fetcher:
                    found.append(process)
        return found

    def helpers(self, module: str) -> list[psutil.Process]:
        return [process for process in self.family() if f"imagesprint.{module}" in _words(process)]

    def trainers(self) -> list[psutil.Process]:
        return [process for process in self.family() if "imagesprint" in _words(process)]

    def finish(self) -> tuple[int, str]:
        """Wait for its end; returns its exit code and what it printed."""
        if not self.has_ended(PATIENCE):
            self._place.broken.append(f"{self.strikes}: still there after {PATIENCE} s")
        left = [process for process in self.family() if f"imagesprint.{HELPERS['kill -9 of the fetcher']}"
                not in _words(process)]  # fmt: skip
        if self.has_ended() and psutil.wait_procs(left, timeout=20)[1]:
            self._place.broken.append(f"{self.strikes}: orphans")
        if not self.has_ended() or left:
            _kill(self.family())
        self.process.wait()
        self._stderr.seek(0)
        return self.process.returncode, self._stderr.read()


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        words: list[str] = process.cmdline()
        return words
    return []


def _kill(processes: list[psutil.Process]) -> None:
    """Kill and wait; not by psutil, which would take away the exit code of a process that we started."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
            while process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)


def strike(place: Place, command: Command, kind: str, draw: random.Random) -> None:
    """Strike once; what passes has passed when this returns."""
    command.strikes.append(kind)
    command.struck_at = time.monotonic()
    place.struck[kind] += 1
    if kind == "kill -9 of a trainer":
        _kill(draw.sample(trainers, 1) if (trainers := command.trainers()) else [])
    elif kind in KILLS:
        _kill(command.family())
        if kind.endswith("with the cache"):
            shutil.rmtree(place.cache, ignore_errors=True)
    elif kind in HELPERS:
        _kill(command.helpers(HELPERS[kind]))
    elif kind == "SIGTERM":
        command.process.send_signal(signal.SIGTERM)
    elif kind == "store killed":
        place.server.kill()
        command.has_ended(draw.uniform(1, 8))
        place.server.start()
    elif kind == "cache disk full":
        with full_disk(place.cache.parent):
            command.has_ended(draw.uniform(1, 4))
    else:
        place.proxy.faults = FAULTS[kind]
        command.has_ended(draw.uniform(2, 8))
        place.proxy.faults = Faults()


@contextmanager
def full_disk(disk: Path) -> Iterator[None]:
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(1 << 16)):
            pass
    yield
    (disk / "ballast").unlink()


def judge(place: Place, command: Command, code: int, printed: str) -> None:
    """See whether a command that ended with `code` was allowed to, and count it."""
    kinds = {*command.strikes}
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    allowed = {0}
    if kinds & {*KILLS}:
        allowed |= {-signal.SIGKILL, 1}
    if "SIGTERM" in kinds:
        allowed |= {143, -signal.SIGTERM}
    if kinds & {*FAULTS, "store killed", "cache disk full"}:
        allowed |= {1}
    wrong = f"exit code {code}" if code not in allowed else ""
    if code == 1 and len(errors) != 1:
        wrong = f"{len(errors)} errors"
    if "Traceback" in printed:
        wrong = "a traceback"
    if any(place.server.environment[name] in printed for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")):
        wrong = "credentials in the message"
    if wrong:
        place.broken.append(f"{command.strikes}: {wrong}: {printed[-2000:]}")
    last = command.strikes[-1] if command.strikes else "none"
    how = "killed" if code in (-signal.SIGKILL, -signal.SIGTERM) else f"exit code {code}"
    place.ends.setdefault(last, Counter())[how] += 1
    place.longest[last] = max(place.longest.get(last, 0.0), time.monotonic() - command.struck_at)
    for line in errors:
        place.said[re.sub(r"\d+", "N", line.replace(str(place.scratch), "…"))] += 1


def train(place: Place, run: Url, processes: int, flags: tuple[str, ...], next_kind: Callable[[], str],
          draw: random.Random) -> None:  # fmt: skip
    """Give one command again and again, each struck as long as there are strikes, until the run is done."""
    unstruck = 0
    while unstruck < MOST_COMMANDS:
        command = Command(place, "s3://tests/data", run, processes, *flags)
        try:
            while not command.has_ended(draw.uniform(0.3, 9)) and (kind := next_kind()):
                strike(place, command, kind, draw)
            code, printed = command.finish()
        except BaseException:  # Ctrl-C: the command has a session of its own, and would go on
            _kill(command.family())
            raise
        judge(place, command, code, printed)
        print(f"{run} {code} {command.strikes} {printed.splitlines()[-2:]}", file=sys.stderr, flush=True)
        if code == 0:
            return
        unstruck += not command.strikes
    place.broken.append(f"{run}: not done after {MOST_COMMANDS} commands")


def spend(place: Place, arguments: argparse.Namespace) -> None:
    """Spend the strikes on one run after another."""
    draw = random.Random(arguments.seed)
    bag: list[str] = []

    def next_kind() -> str:
        if place.struck.total() >= arguments.strikes:
            return ""
        bag[:] = bag or draw.sample(arguments.kinds, len(arguments.kinds))
        return bag.pop()

    number = 0
    while place.struck.total() < arguments.strikes:
        processes = arguments.processes[number % len(arguments.processes)]
        run, number = Url(f"s3://tests/run-{number}"), number + 1
        flags = ("--cache-limit", SMALL_CACHE) if (number // len(arguments.processes)) % 2 else ()
        train(place, run, processes, flags, next_kind, draw)
        found = broken_at(run, place.references[processes], place.scratch / "fetched")
        found += [f"left in the cache: {file}" for file in (place.cache / "runs").glob("*/*")]
        place.broken += [f"{run} on {processes} processes: {what}" for what in found]
        shutil.rmtree(place.cache, ignore_errors=True)
        done = f"{place.struck.total()} of {arguments.strikes} strikes, run {number}"
        print(f"{done}: {found or 'sound'}; {len(place.broken)} broken in all", file=sys.stderr, flush=True)


def measure(arguments: argparse.Namespace, scratch: Path) -> Place:
    """Prepare all, strike, and return what came of it."""
    for name in ("tmp", "disk"):
        (scratch / name).mkdir()
    data = prepare_digits(scratch, arguments.images)
    server = S3Server(scratch / "s3")
    os.environ.update(server.environment)
    server.make_bucket("tests")
    store = open_store(Url("s3://tests/data"))
    for path in data.rglob("*"):
        if path.is_file():
            store.upload(path, str(path.relative_to(data)))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(scratch / "disk")]
    subprocess.run(mount, check=True)
    try:
        with FaultProxy(server.endpoint, arguments.seed) as proxy:
            place = Place(scratch, server, proxy)
            for processes in arguments.processes:
                reference = Command(place, data, scratch / f"reference-{processes}", processes)
                code, printed = reference.finish()
                assert code == 0, printed
                place.references[processes] = scratch / f"reference-{processes}"
            with suppress(KeyboardInterrupt):
                spend(place, arguments)
    finally:
        subprocess.run(["umount", "--lazy", str(scratch / "disk")], check=False)
        server.kill()
    return place


def to_text(place: Place, seconds: float) -> str:
    """The tables for people, in Markdown."""
    lines = ["| strike | how often | commands that ended after it | longest, s |", "|---|---|---|---|"]
    for kind in [kind for kind in (*KINDS, "none") if kind in place.struck or kind in place.ends]:
        ends = place.ends.get(kind, Counter())
        how = ", ".join(f"{count} × {end}" for end, count in sorted(ends.items()))
        lines.append(f"| {kind} | {place.struck[kind]} | {how} | {place.longest.get(kind, 0.0):.0f} |")
    lines += ["", f"{place.struck.total()} strikes in {seconds:.0f} s; broken: {len(place.broken)}"]
    lines += [f"- {what}" for what in place.broken]
    lines += ["", "What commands that failed said, N for numbers:", ""]
    lines += [f"- {count} × {line}" for line, count in place.said.most_common()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strikes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2])
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--images", type=int, default=150)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="strikes-") as folder:
        place = measure(arguments, Path(folder))
    print(to_text(place, time.monotonic() - begun))
    return 3 if place.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
