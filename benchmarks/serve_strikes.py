"""Strikes at `imagesprint serve`: each bad request gets a 4xx or a closed connection, and the others their answers.

    python benchmarks/serve_strikes.py [--photos 10000] [--seed 0] [--kinds KIND,…] [--runtime auto] [--folder DIR]
        [--output FILE.md]

First mutated photos, whose verdicts are held against our decoder's here; then what `serve_strikes_kinds.py` has; then
SIGTERM under load, and a model that fails (`serve_strikes_model.py`). All the while a client sends sound photos and
holds the answers against the right ones. After each strike the server's memory and open files are counted; both must be
what they were after a warm-up, within LEEWAY. Prints a table in Markdown; exits 3 where a promise is broken.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import psutil
from serve_load import answers_of
from serve_strikes_kinds import (
    SECONDS,
    STRIKES,
    Outcome,
    Target,
    answer,
    infer,
    mutated,
    outcome,
    photos_of_all_formats,
    request,
    send,
    tensor,
)
from serving_models import RECIPES, make_models, photos_for

from imagesprint.console import Console
from imagesprint.inference.opening import open_model
from imagesprint.inference.prediction import ImageReader
from imagesprint.serving.batcher import MAX_BATCH, MAX_PIXELS

HERE: Final = Path(__file__).parent
MODEL: Final = "resnet18-64"
WARM_PHOTOS: Final = 10_000  # after which malloc's pools have what they need
ROUNDS: Final = 4  # of mutated photos, between which memory is looked at
SENDERS: Final = 4  # of mutated photos at a time
LEEWAY: Final = 1.08  # of memory; open files must be at most 8 more
TOLERANCE: Final = 0.002  # of probabilities
MUTATED: Final = "mutated photos"
TERMINATED: Final = "SIGTERM under load"
FAILING: Final = "a model that fails"
KINDS: Final = (MUTATED, *STRIKES, TERMINATED, FAILING)


@dataclass
class Record:
    """What became of the requests of one kind, and what broke a promise."""

    kind: str
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    seconds: float = 0.0
    longest: float = 0.0
    memory: float = 0.0  # MB of the server, after it
    files: int = 0
    broken: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome, is_right: bool, what: str = "") -> None:
        self.outcomes[outcome] += 1
        if not is_right:
            self.broken.append(f"{self.kind}: {outcome} {what}".rstrip())


class Served:
    """A server, in a process of its own."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._log = log.open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *words, "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"it does not serve: {log.read_text()}")
        self.port = int(json.loads(line)["url"].rpartition(":")[2])

    def memory(self) -> float:
        """Megabytes of it and its children."""
        family = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (family, *family.children(recursive=True))) / 1e6

    def files(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def said(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(words: Sequence[str], folder: Path) -> Iterator[Served]:
    served = Served(words, folder / "server.log")
    try:
        yield served
    finally:
        served.kill()


class GoodClient:
    """A client that keeps to the rules, in a thread: it sends sound photos and holds the answers against `answers`."""

    def __init__(self, port: int, photos: Sequence[bytes], answers: Sequence[Sequence[float]]) -> None:
        self._port, self._photos, self._answers = port, photos, answers
        self._ended = threading.Event()
        self.right = self.later = 0
        self.wrong: list[str] = []
        self.longest = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        number = 0
        while not self._ended.is_set():
            number = (number + 1) % len(self._photos)
            began = time.monotonic()
            try:
                connection.request("POST", "/predict", self._photos[number], {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, HTTPException) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                connection.close()
                continue
            self.longest = max(self.longest, time.monotonic() - began)
            if response.status == 429:
                self.later += 1
            elif response.status == 200 and is_right(json.loads(content), self._answers[number]):
                self.right += 1
            else:
                self.wrong.append(f"{response.status}: {content[:200]!r}")
            self._ended.wait(0.02)


def is_right(found: Any, wanted: Sequence[float]) -> bool:
    return all(abs(one["probability"] - wanted[one["class"]]) <= TOLERANCE for one in found["top"])


def is_refusal(outcome: Outcome) -> bool:
    return outcome == "closed" or (isinstance(outcome, int) and 400 <= outcome < 500)


def strike_with_photos(record: Record, served: Served, photos: Sequence[bytes], count: int, seed: int) -> None:
    """Mutated photos, over kept connections; the server must refuse those that our decoder does."""
    recipe, kinds = RECIPES[MODEL], photos_of_all_formats(photos[0]) + list(photos[1:4])
    with (
        ImageReader(recipe.eval_image_size, recipe.eval_resize, 1, most_pixels=MAX_PIXELS) as reader,
        ThreadPoolExecutor(SENDERS) as pool,
    ):
        lock = threading.Lock()

        def strike(part: int) -> None:
            draw, connection, buffer = random.Random(f"{seed} {part}"), None, bytearray()
            for _ in range(part, count, SENDERS):
                photo = mutated(kinds, draw)
                connection = connection or Target(served.port, "", 0, b"").connect()
                began = time.monotonic()
                send(connection, request("/predict", photo))
                found = answer(connection, buffer)
                with lock:
                    _, failures = reader.decode([photo])
                    record.longest = max(record.longest, time.monotonic() - began)
                    record.count(found, is_refusal(found) if failures else found == 200, repr(failures))
                    if found == "closed" or buffer:
                        record.broken.append(f"{record.kind}: {found}, {bytes(buffer)[:99]!r}")
                if not isinstance(found, int):
                    connection.close()
                    connection, buffer = None, bytearray()
            if connection is not None:
                connection.close()

        list(pool.map(strike, range(SENDERS)))


def strike_with_kind(record: Record, target: Target) -> None:
    """One of STRIKES."""
    began = time.monotonic()
    for number, found in enumerate(STRIKES[record.kind](target)):
        record.longest = max(record.longest, time.monotonic() - began)
        record.count(found, ALLOWED.get(record.kind, is_refusal)(found), f"to request {number}")
        began = time.monotonic()


# What is right beside a refusal.
ALLOWED: Final[dict[str, Callable[[Outcome], bool]]] = {
    "half-closed and reset": lambda found: found == 200 or is_refusal(found),
    "a thousand idle connections": lambda found: found in (200, "1000 held"),
    "pipelining": lambda found: found == "right",
}


def terminate(record: Record, served: Served, photos: Sequence[bytes]) -> None:
    """SIGTERM while 16 clients ask: what was sent 0.1 s before it is answered, and the server ends with 0."""
    results: list[tuple[float, Outcome]] = []

    def ask(photo: bytes) -> None:
        target = Target(served.port, "", 0, b"")
        while True:
            try:
                connection = target.connect()
            except OSError:
                return
            with connection:
                send(connection, request("/predict", photo))
                sent = time.monotonic()
                results.append((sent, answer(connection, bytearray())))

    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask, photo) for photo in (photos * 16)[:16]]
        time.sleep(3)
        ended = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        for one in asking:
            one.result()
    code = served.process.wait(SECONDS)
    record.longest = time.monotonic() - ended
    for sent, found in results:
        if sent < ended - 0.1:
            record.count(found, found == 200, "was sent before SIGTERM")
        else:
            record.count(found, found in (200, 503, "closed"), "was sent about SIGTERM or after it")
    if code:
        record.broken.append(f"{record.kind}: exit code {code}: {served.said()[-1000:]}")


def fail_model(record: Record, served: Served, photos: Sequence[bytes]) -> None:
    """Photos among which some make the model raise: 500 for these, and the right answer for who shares their batch."""
    from serve_strikes_model import POISON

    def ask(photo: bytes) -> Outcome:
        with Target(served.port, "", 0, b"").connect() as connection:
            send(connection, request("/predict", photo))
            return answer(connection, bytearray())

    for _ in range(5):
        for photo, wanted in ((POISON, 500), (photos[0], 200)):
            found = ask(photo)
            record.count(found, found == wanted, f"in place of {wanted}")
    crowd = [*photos[:7], POISON] * 50
    with ThreadPoolExecutor(16) as pool:
        for photo, found in zip(crowd, pool.map(ask, crowd), strict=True):
            wanted = 500 if photo is POISON else 200
            record.count(found, found == wanted, f"in place of {wanted}, in a crowd")


def measure(arguments: argparse.Namespace, folder: Path) -> list[Record]:
    (file,) = make_models(folder, [f"{MODEL}-fp32"]).values()
    photos = [photo.content for photo in photos_for(folder / "root", RECIPES[MODEL])][:16]
    model = open_model(file, arguments.runtime, "cpu", Console.silent())
    answers = answers_of(file, arguments.runtime, photos).tolist()
    serve = ["-m", "imagesprint", "serve", str(file), "--runtime", arguments.runtime]
    warnings.simplefilter("ignore")  # Pillow's, of what is struck
    records: list[Record] = []
    with serving(serve, folder) as served:
        target = Target(served.port, model.name, model.image_size, photos[0])
        warm_up(target)
        client = GoodClient(served.port, photos, answers)  # also while it warms up: batches grow with who sends
        strike_with_photos(Record("warm-up"), served, photos, WARM_PHOTOS, -1)
        time.sleep(3)
        memory, files = served.memory(), served.files()
        records.append(Record("after a warm-up", memory=memory, files=files))
        for kind in [kind for kind in KINDS[:-2] if kind in arguments.kinds]:
            for part in range(ROUNDS if kind == MUTATED else 1):
                record = Record(kind)
                began = time.monotonic()
                if kind == MUTATED:
                    count, seed = arguments.photos // ROUNDS, arguments.seed * ROUNDS + part
                    strike_with_photos(record, served, photos, count, seed)
                else:
                    strike_with_kind(record, target)
                record.seconds = time.monotonic() - began
                time.sleep(3)  # in which what was given up ends
                look(record, served, memory, files)
                records.append(record)
        client.end()
        note_client(records[0], client)
        if TERMINATED in arguments.kinds:
            records.append(Record(TERMINATED))
            terminate(records[-1], served, photos)
    if FAILING in arguments.kinds:
        records.append(Record(FAILING))
        with serving([str(HERE / "serve_strikes_model.py"), *serve[2:]], folder) as served:
            fail_model(records[-1], served, photos)
    return records


def warm_up(target: Target) -> None:
    """Have the model work on batches of every size: a runtime keeps what it prepared for each."""
    for count in [*range(1, MAX_BATCH + 1)] * 2:
        pixels = bytes(count * target.image_size**2 * 3)
        shape = [count, target.image_size, target.image_size, 3]
        sized = {"binary_data_size": len(pixels)}
        assert outcome(target, infer(target, tensor("images", "UINT8", shape, parameters=sized), pixels)) == 200


def look(record: Record, served: Served, memory: float, files: int) -> None:
    """Count the server's memory and files, and see that it lives."""
    if served.process.poll() is not None:
        raise SystemExit(f"{record.kind}: the server ended: {served.said()[-3000:]}")
    record.memory, record.files = served.memory(), served.files()
    if record.memory > LEEWAY * memory:
        record.broken.append(f"{record.kind}: memory {record.memory:.0f} MB, was {memory:.0f}")
    if record.files > files + 8:
        record.broken.append(f"{record.kind}: {record.files} open files, were {files}")
    if "Traceback" in served.said():
        record.broken.append(f"{record.kind}: {served.said()[-2000:]}")
    print(f"{record.kind}: {dict(record.outcomes)}; broken: {len(record.broken)}", file=sys.stderr, flush=True)


def note_client(record: Record, client: GoodClient) -> None:
    record.outcomes = Counter(right=client.right, wrong=len(client.wrong), later=client.later)
    record.longest = client.longest
    record.kind += "; the good client, all the while"
    record.broken += [f"the good client: {what}" for what in client.wrong]


def table(records: Iterable[Record]) -> str:
    lines = ["| strike | what became of its requests | s | longest s | memory MB | open files |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for one in records:
        found = ", ".join(f"{count:,} × {what}" for what, count in sorted(one.outcomes.items(), key=str))
        size = f"{one.memory:.0f} | {one.files}" if one.files else "– | –"
        cells = f"{one.seconds:.0f} | {one.longest:.2f} | {size}"
        lines.append(f"| {one.kind} | {found} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
    with tempfile.TemporaryDirectory(prefix="serve-strikes-") as scratch:
        records = measure(arguments, arguments.folder or Path(scratch))
    broken = [what for record in records for what in record.broken]
    text = "\n".join([table(records), "", f"broken promises: {len(broken)}", *map("- {}".format, broken[:50])])
    print(text)
    if arguments.output:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        head = f"# Strikes at `imagesprint serve`\n\n`python {' '.join(sys.argv)}`, commit {commit.stdout.strip()}\n\n"
        arguments.output.write_text(head + text + "\n")
    return 3 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
