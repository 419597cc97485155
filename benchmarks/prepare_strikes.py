"""Strikes at `prepare` from S3 to S3, at random: each must end with one clear error or none, and the same bytes.

    python benchmarks/prepare_strikes.py [--strikes 40] [--seed 0] [--kinds KIND,…] [--images 240] [--json]

Prepares crops of scikit-learn's photos in SeaweedFS, by one command or by two that take half of the train shards each,
with a proxy between them and the store. Each round begins a new ROOT, strikes once while shards are written, and gives
the same commands again until ROOT is finished, every other time with an empty cache, as on another machine. Then every
byte of ROOT is held against what `prepare` makes of the same images on a disk, and nothing else may lie there. Prints a
table in Markdown; exits 3 where a promise is broken.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

SERVERS = Path(__file__).with_name("servers")
sys.path.insert(0, str(SERVERS))

from fault_proxy import FaultProxy, Faults  # noqa: E402
from imagesprint.storage.store import Store, open_store  # noqa: E402
from imagesprint.storage.url import Url  # noqa: E402
from s3_server import S3Server  # noqa: E402

OPTIONS = ("--variants", "full,64", "--shards", "8", "--workers", "1")
PATIENCE = 200  # seconds for a command to end once it was struck
MOST_COMMANDS = 6  # in one round
FAULTS = {  # for three seconds
    "answers late": Faults(latency=0.3),
    "503 SlowDown": Faults(error_share=0.4),
    "bodies cut": Faults(truncate_share=0.2),
    "connections cut": Faults(reset_share=0.2),
    "bits flipped": Faults(corrupt_share=0.2),
    "no answers": Faults(hang=True),
    "refused": Faults(refuse=True),
}
KINDS = ("kill -9", "kill -9 of one of two", "SIGTERM", "store killed", *FAULTS)


@dataclass
class Place:
    """Where all lies, and what ROOT must hold in the end."""

    scratch: Path
    server: S3Server
    proxy: FaultProxy
    wanted: dict[str, bytes]
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def write_photos(folder: Path, images: int) -> None:
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for split, count in (("train", images // 2), ("val", images // 20)):
            target = folder / split / name
            target.mkdir(parents=True)
            for i in range(count):
                crop = Image.fromarray(photo[i % 27 :, i % 200 :][:300, :400])
                crop.save(target / f"{i:04d}.jpg", quality=80 + i % 10 - (split == "val"))


def start(place: Place, root: Url, cache: Path, *flags: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "imagesprint", "prepare", "s3://tests/photos", str(root), *OPTIONS]
    environment = {**os.environ, "AWS_ENDPOINT_URL": place.proxy.endpoint}
    return subprocess.Popen(
        [*words, "--cache", str(cache), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def begin(place: Place, root: Url, cache: Path, parts: bool) -> list[subprocess.Popen[str]]:
    flags = (("--part", "0:4"), ("--part", "4:8")) if parts else ((),)
    return [start(place, root, cache, *words) for words in flags]


def wait_for_shards(store: Store, processes: list[subprocess.Popen[str]], count: int) -> None:
    """Wait until so many shards are finished, or the commands have ended."""
    while any(process.poll() is None for process in processes):
        if sum(stored.key.endswith(".json") for stored in store.list(".parts")) > count:  # beside plan.json
            return
        time.sleep(0.03)


def strike(place: Place, kind: str, processes: list[subprocess.Popen[str]]) -> None:
    signals = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
    for process in processes[:1] if kind.endswith("of one of two") else processes:
        if kind.startswith("kill -9") or kind == "SIGTERM":
            os.killpg(process.pid, signals.get(kind, signal.SIGKILL))
    if kind == "store killed":
        place.server.kill()
        time.sleep(2)
        place.server.start()
    if kind in FAULTS:
        place.proxy.faults = FAULTS[kind]
        time.sleep(3)
        place.proxy.faults = Faults()


def end(place: Place, kind: str, processes: list[subprocess.Popen[str]]) -> bool:
    """Wait for commands to end, and count how; whether all went well."""
    codes = []
    for process in processes:
        try:
            _, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate()
            place.broken.append(f"{kind}: a command hung")
        codes.append(process.returncode)
        said = [line for line in err.splitlines() if line.startswith("error: ")]
        if "Traceback" in err or (process.returncode > 0 and len(said) != 1):
            place.broken.append(f"{kind}: exit code {process.returncode}: {err[-2000:]}")
        outcome = f"exit code {process.returncode}" if process.returncode >= 0 else "killed"
        place.outcomes.setdefault(kind, Counter())[outcome] += 1
    return not any(codes)


def check(place: Place, kind: str, root: Url) -> None:
    """Hold what lies at ROOT against what must."""
    store = open_store(root)
    found = {stored.key: store.read(stored.key) for stored in store.list()}
    for key in found.keys() ^ place.wanted.keys():
        place.broken.append(f"{kind}: {root / key} is {'left over' if key in found else 'missing'}")
    for key in found.keys() & place.wanted.keys():
        if found[key] != place.wanted[key]:
            place.broken.append(f"{kind}: {root / key} has other bytes")


def strike_once(place: Place, kind: str, number: int, draw: random.Random) -> None:
    root = Url(f"s3://tests/root-{number}")
    caches = [place.scratch / f"cache-{number}-{i}" for i in range(2)]
    parts = kind.endswith("of one of two") or draw.random() < 0.5
    processes = begin(place, root, caches[0], parts)
    wait_for_shards(open_store(root), processes, draw.randrange(6))
    time.sleep(draw.random() * 0.3)
    strike(place, kind, processes)
    is_done = end(place, kind, processes)
    for command in range(MOST_COMMANDS):
        if not is_done:
            is_done = end(place, kind, begin(place, root, caches[(number + command) % 2], parts=False))
    check(place, kind, root)
    for cache in caches:
        shutil.rmtree(cache, ignore_errors=True)


def measure(arguments: argparse.Namespace, scratch: Path) -> Place:
    """Strike so many times; return what came of it."""
    source = scratch / "photos"
    write_photos(source, arguments.images)
    words = [sys.executable, "-m", "imagesprint", "prepare", str(source), str(scratch / "root"), *OPTIONS]
    subprocess.run(words, check=True, capture_output=True)
    files = [path for path in (scratch / "root").rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(scratch / "root")): path.read_bytes() for path in files}
    server = S3Server(scratch / "s3")
    os.environ.update(server.environment)
    server.make_bucket("tests")
    store = open_store(Url("s3://tests/photos"))
    for path in source.rglob("*.jpg"):
        store.upload(path, str(path.relative_to(source)))
    draw = random.Random(arguments.seed)
    with FaultProxy(server.endpoint) as proxy:
        place = Place(scratch, server, proxy, wanted)
        for number in range(arguments.strikes):
            kind = arguments.kinds[number % len(arguments.kinds)]
            strike_once(place, kind, number, draw)
            print(f"{number + 1}/{arguments.strikes} {kind}: {len(place.broken)} broken", file=sys.stderr, flush=True)
    server.kill()
    return place


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strikes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="strikes-") as folder:
        place = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps({"outcomes": place.outcomes, "broken": place.broken, "seconds": time.monotonic() - begun}))
    else:
        print("| strike | how the commands of its rounds ended |\n|---|---|")
        for kind, outcomes in place.outcomes.items():
            print(f"| {kind} | {', '.join(f'{count} × {outcome}' for outcome, count in sorted(outcomes.items()))} |")
        print(f"\n{arguments.strikes} strikes in {time.monotonic() - begun:.0f} s; broken: {len(place.broken)}")
        print("\n".join(place.broken))
    return 3 if place.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
