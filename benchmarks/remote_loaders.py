"""Reading from S3 side by side with s3fs + WebDataset-like reading and mosaicml-streaming, against SeaweedFS.

    python benchmarks/remote_loaders.py --photos ../shared/data/flowers-160 --peers PYTHON [--json FILE]

Prepares 10,000 images of at most 160 pixels (those of --photos, over and over, with another comment in each) in 16
shards and puts them into a SeaweedFS of its own, as MDS for mosaicml-streaming. Then, in turns, each in a process of
its own that begins with an empty cache, every image is read once, in shuffled order, into memory, undecoded:

- ours: `Loader`'s order, each record read from where `Dataset.places` has it and its CRC checked;
- s3fs: shuffled shards in two workers of torch's DataLoader, through a buffer of 2,000 samples, no CRC;
- streaming: StreamingDataset(shuffle=True) in as many workers.

Beside it: ours with a warm cache and from the disk (reading alone, and decoded batches), the time from `open_root` to
the first decoded batch, and what `small` waits for data where 50 ms are added to each answer of the store. PYTHON has
s3fs, torch and mosaicml-streaming; those that it lacks are left out. Times are of the work, without imports (of "ours"
also of the fetcher, which is a process of its own; those of "decoded" have its start in them). Exits 3 if
a target is missed: twice the speed of one of the peers, 3% of the disk's, 3 s to the first batch.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("servers")))

IMAGES = 10_000
SHARDS = 16
BATCH = 256
WORKERS = 2
BUFFER = 2_000
LATENCY = 0.05  # seconds
TARGETS = {"peer": 2.0, "warm": 0.97, "first": 3.0}


def main() -> int:
    """Measure, and print a table; with --json FILE, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder with train/CLASS/*.jpg")
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagesprint-remote-") as folder:
        found = measure(args, Path(folder))
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    peers = [found[name]["images_per_second"] for name in PEERS if name in found]
    checks = {
        "peer": not peers or found["ours"]["images_per_second"] >= TARGETS["peer"] * min(peers),
        "warm": found["warm, decoded"]["images_per_second"]
        >= TARGETS["warm"] * found["disk, decoded"]["images_per_second"],
        "first": found["ours, decoded"]["first_batch"] <= TARGETS["first"],
    }
    print(checks)
    return 0 if all(checks.values()) else 3


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures: medians over the rounds."""
    from imagesprint.storage.store import open_store
    from imagesprint.storage.url import Url
    from s3_server import S3Server

    root = prepared(args.photos, folder)
    (folder / "s3").mkdir()
    server = S3Server(folder / "s3")
    try:
        os.environ |= server.environment
        url = Url(f"s3://{server.make_bucket('bench')}/root")
        store = open_store(url)
        for file in root.rglob("*"):
            if file.is_file():
                store.upload(file, str(file.relative_to(root)))
        works = {
            "ours": (sys.executable, str(url)),
            "warm": (sys.executable, str(url)),
            "disk": (sys.executable, str(root)),
        }
        works |= {f"{name}, decoded": value for name, value in tuple(works.items())}
        for name in PEERS:
            ready = one(args.peers, f"prepare {name}", str(url), folder, root)
            if ready is not None:
                works[name] = (args.peers, str(url))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in works}
        for _ in range(args.rounds):
            for name, (python, place) in works.items():
                if name not in ("warm", "warm, decoded"):
                    shutil.rmtree(folder / "cache", ignore_errors=True)
                done = one(python, name, place, folder, root)
                if done is not None:
                    rows[name].append(done)
                    print(name, done, file=sys.stderr, flush=True)
        found: dict[str, Any] = {name: medians(of) for name, of in rows.items() if of}
        found["latency"] = with_latency(server.endpoint, url, folder)
        return found
    finally:
        server.kill()


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def one(python: str, name: str, place: str, folder: Path, root: Path) -> dict[str, float] | None:
    """What a process of its own measures of one program; None where it cannot run."""
    environment = os.environ | {
        "IMAGESPRINT_CACHE": str(folder / "cache"),
        "BENCH_FOLDER": str(folder),
        "BENCH_ROOT": str(root),
    }
    words = [python, __file__, "--one", name, place]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    result: dict[str, float] = json.loads(done.stdout)
    return result


def prepared(photos: Path, folder: Path) -> Path:
    """IMAGES of the photos, in class folders of two, as a ROOT."""
    from imagesprint.console import Console
    from imagesprint.prepare.preparing import prepare

    files = sorted(photos.glob("train/*/*.jpg"))
    source = folder / "source"
    for number in range(IMAGES):
        file = files[number % len(files)]
        target = source / "train" / file.parent.name / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(commented(file.read_bytes(), number))
    for file in files[: len(files) // 10]:
        (source / "val" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, source / "val" / file.parent.name)
    for label in {file.parent.name for file in files}:
        (source / "val" / label).mkdir(parents=True, exist_ok=True)
    prepare(source, folder / "root", variants=("full",), shards=SHARDS, workers=WORKERS, console=Console(quiet=True))
    shutil.rmtree(source)
    return folder / "root"


def commented(jpeg: bytes, number: int) -> bytes:
    """The image with a comment behind its first marker, so that no two are the same bytes."""
    comment = f"{number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def ours(place: str) -> Iterator[int]:
    """Read every record; yields how many after each batch."""
    from imagesprint.loading.loader import Loader
    from imagesprint.loading.sampling import BatchSpec
    from imagesprint.records.dataset import open_dataset
    from imagesprint.records.tfrecord import read_record

    dataset = open_dataset(place, "full", "train")
    for load in Loader(dataset, BatchSpec(128, BATCH, epochs=1)).loads():
        places = dataset.places(load.sample_ids)
        rows = zip(places.fds.tolist(), places.offsets.tolist(), places.lengths.tolist(), strict=True)
        for fd, offset, length in rows:
            read_record(fd, offset, length, dataset.path)
        yield len(load.sample_ids)


def ours_decoded(place: str) -> Iterator[int]:
    from imagesprint.loading.loader import Loader
    from imagesprint.loading.sampling import BatchSpec
    from imagesprint.records.dataset import open_dataset

    for batch in Loader(open_dataset(place, "full", "train"), BatchSpec(128, BATCH, epochs=1)):
        yield len(batch.labels)


def s3fs_webdataset(place: str) -> Iterator[int]:
    """As WebDataset reads: shards in random order, one after the other, through a shuffle buffer."""
    import random

    import s3fs
    import torch.utils.data as data

    class Samples(data.IterableDataset[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            info = data.get_worker_info()
            files = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
            shards = sorted(files.glob(f"{place.removeprefix('s3://')}/full/train-0*"))
            random.Random(0).shuffle(shards)
            buffer: list[bytes] = []
            for shard in shards[info.id :: info.num_workers]:
                with files.open(shard, "rb") as file:
                    while head := file.read(12):
                        record = file.read(int.from_bytes(head[:8], "little"))
                        file.read(4)
                        buffer.append(record)
                        if len(buffer) > BUFFER:
                            yield buffer.pop(random.randrange(len(buffer)))
            random.shuffle(buffer)
            yield from buffer

    for batch in data.DataLoader(Samples(), BATCH, num_workers=WORKERS, collate_fn=list):
        yield len(batch)


def streaming(place: str) -> Iterator[int]:
    import torch.utils.data as data
    from streaming import StreamingDataset

    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    local = Path(os.environ["IMAGESPRINT_CACHE"]) / "streaming"
    dataset = StreamingDataset(
        remote=f"{place}-mds", local=str(local), shuffle=True, batch_size=BATCH, num_canonical_nodes=1
    )
    for batch in data.DataLoader(dataset, BATCH, num_workers=WORKERS, collate_fn=list):
        yield len(batch)


def prepare_streaming(place: str) -> None:
    """Write the same images as MDS, in shards of the same size."""
    import s3fs
    from streaming import MDSWriter

    folder = Path(os.environ["BENCH_FOLDER"]) / "mds"
    shards = sorted((Path(os.environ["BENCH_ROOT"]) / "full").glob("train-0*"))
    with MDSWriter(out=str(folder), columns={"record": "bytes"}, size_limit=shards[0].stat().st_size) as out:
        for shard in shards:
            content, begin = shard.read_bytes(), 0
            while begin < len(content):
                length = int.from_bytes(content[begin : begin + 8], "little")
                out.write({"record": content[begin + 12 : begin + 12 + length]})
                begin += length + 16
    s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"]).put(f"{folder}/", f"{place}-mds/", recursive=True)


PEERS: dict[str, Callable[[str], Iterator[int]]] = {"s3fs": s3fs_webdataset, "streaming": streaming}
IMPORTS = {
    "s3fs": ("s3fs", "torch.utils.data"),
    "streaming": ("streaming", "torch.utils.data"),
    "ours": ("imagesprint.loading.loader",),
}
PROGRAMS = PEERS | {
    **dict.fromkeys(("ours", "warm", "disk"), ours),
    **dict.fromkeys(("ours, decoded", "warm, decoded", "disk, decoded"), ours_decoded),
}


def run_one(name: str, place: str) -> None:
    """Measure one program, and print what came of it."""
    import importlib

    if name.startswith("prepare "):
        name = name.removeprefix("prepare ")
        for module in IMPORTS[name]:
            importlib.import_module(module)
        if name == "streaming":
            prepare_streaming(place)
        print("{}")
        return
    for module in IMPORTS.get(name, IMPORTS["ours"]):
        importlib.import_module(module)
    if name.startswith("warm"):
        warm_up(place)
    if name == "ours":
        start_fetcher(place)
    began, images, first = time.perf_counter(), 0, 0.0
    for count in PROGRAMS[name](place):
        first = first or time.perf_counter() - began
        images += count
    seconds = time.perf_counter() - began
    print(json.dumps({"images_per_second": images / seconds, "first_batch": first, "images": images}))


def start_fetcher(place: str) -> None:
    """Have the fetcher be there, as the peers' imports are: it has opened nothing yet."""
    from imagesprint.records.remote.client import Connection
    from imagesprint.storage.url import Url

    Connection(Url(place), lambda _: None).ask({"counts": True})


def warm_up(place: str) -> None:
    """Wait until the cache has all."""
    import numpy as np

    from imagesprint.records.dataset import open_dataset

    dataset = open_dataset(place, "full", "train")
    dataset.fill()
    while dataset.remote is not None and not dataset.remote.is_whole:
        time.sleep(0.05)
        dataset.places(np.arange(len(dataset)))  # which hears of what has become whole


def with_latency(endpoint: str, url: Any, folder: Path) -> dict[str, Any]:
    """What `small` waits for data where each answer takes LATENCY longer, with an empty cache."""
    from fault_proxy import FaultProxy

    shutil.rmtree(folder / "cache", ignore_errors=True)
    run = folder / "run"
    with FaultProxy(endpoint) as proxy:
        proxy.faults.latency = LATENCY
        environment = os.environ | {"AWS_ENDPOINT_URL": proxy.endpoint, "IMAGESPRINT_CACHE": str(folder / "cache")}
        words = [
            "train",
            "small",
            "--data",
            str(url),
            "--output",
            str(run),
            "--stop-after",
            "10",
            "--checkpoint-every",
            "epoch",
        ]
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "imagesprint", *words], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.monotonic() - began
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": round(seconds, 1),
        "data_wait": [row["data_wait"] for row in rows],
        "requests": len(proxy.requests),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(*sys.argv[2:4])
    else:
        sys.exit(main())
