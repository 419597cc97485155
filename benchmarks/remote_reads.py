"""Many range reads from a store: do memory and open files stay flat, and how fast is it?

    python benchmarks/remote_reads.py [--reads 20000] [--bytes 110000] [--threads 1,8] [--files 8] [--url URL] [--json]

Without --url it starts SeaweedFS (`servers/s3_server.py`). Writes files of 32 MiB below URL, and reads random ranges
of them: through our Store, and by OpenDAL, obstore (where installed; for s3://) and, for hdfs://, hdfs-native alone.
Each has a process of its own. Prints a table in Markdown: ranges and MB a second, latencies, and, of our Store, memory
and open files after each tenth. Exits 3 where these grow: memory by more than 10% + 8 MB, or files by more than 4,
after the first tenth.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("servers")))

from imagesprint.storage.store import Store, open_store
from imagesprint.storage.url import Url, parse_place
from s3_server import S3Server

FILE_BYTES = 32 << 20
TENTHS = 10
Read = Callable[[str, int, int], Any]  # of (name of a file, start, bytes)


def main() -> int:
    args = _arguments()
    if args.client:
        print(json.dumps(_measure(args)))
        return 0
    with tempfile.TemporaryDirectory(prefix="reads-") as folder:
        if args.url is None:
            server = S3Server(Path(folder))
            server.make_bucket("reads")
            os.environ.update(server.environment)
            args.url = "s3://reads/files"
        rows = _all(args)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(rows)
    return 3 if any(row["grows"] for row in rows if row["client"] == "store") else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=110_000)
    parser.add_argument("--threads", default="1,8")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--url")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", help=argparse.SUPPRESS)  # what this process, started by another, measures
    return parser.parse_args()


def _all(args: argparse.Namespace) -> list[dict[str, Any]]:
    url = parse_place(args.url)
    assert isinstance(url, Url)
    store = open_store(url)
    for number in range(args.files):
        store.write(str(number), os.urandom(FILE_BYTES))
    clients = ("store", "hdfs-native") if url.scheme == "hdfs" else ("store", "opendal", "obstore")
    rows = []
    for threads in args.threads.split(","):
        for client in clients:
            words = [sys.executable, __file__, "--client", client, "--threads", threads, "--url", args.url]
            words += ["--reads", str(args.reads), "--bytes", str(args.bytes), "--files", str(args.files)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                rows.append(json.loads(done.stdout))
                print(f"{client}, {threads} threads: {rows[-1]['ranges_per_second']:.0f} a second", file=sys.stderr)
            elif "ModuleNotFoundError" not in done.stderr:
                raise SystemExit(done.stderr)
    return rows


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Read, as one client, in a process of its own."""
    url = parse_place(args.url)
    assert isinstance(url, Url)
    read = _CLIENTS[args.client](url)
    draw = random.Random(0)
    ranges = [(str(draw.randrange(args.files)), draw.randrange(FILE_BYTES - args.bytes)) for _ in range(args.reads)]
    seconds: list[float] = []

    def one(place: tuple[str, int]) -> None:
        begun = time.perf_counter()
        got = len(read(place[0], place[1], args.bytes))
        seconds.append(time.perf_counter() - begun)
        assert got == args.bytes

    used = []
    begun, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(int(args.threads)) as pool:
        for tenth in range(TENTHS):
            list(pool.map(one, ranges[tenth::TENTHS]))
            used.append((_memory(), len(os.listdir("/proc/self/fd"))))
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    seconds.sort()
    first, last = used[0], used[-1]
    return {
        "client": args.client,
        "threads": int(args.threads),
        "ranges_per_second": args.reads / took,
        "megabytes_per_second": args.reads * args.bytes / took / 1e6,
        "p50_milliseconds": 1e3 * seconds[len(seconds) // 2],
        "p99_milliseconds": 1e3 * seconds[len(seconds) * 99 // 100],
        "cpu_milliseconds": 1e3 * cpu / args.reads,
        "megabytes": [each[0] / 1e6 for each in used],
        "open_files": [each[1] for each in used],
        "grows": last[0] > 1.1 * first[0] + 8e6 or last[1] > first[1] + 4,
    }


def _memory() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _by_store(url: Url) -> Read:
    store: Store = open_store(url)
    return store.read


def _by_opendal(url: Url) -> Read:
    import opendal

    from imagesprint.storage.configuring import service_of

    service = service_of(url)
    operator = opendal.Operator(service.name, **service.options)
    return lambda key, start, count: operator.read(f"{url.key}/{key}", offset=start, size=count)


def _by_obstore(url: Url) -> Read:
    import obstore
    from obstore.store import S3Store

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    bucket = S3Store(url.host, endpoint=endpoint, client_options={"allow_http": True})
    return lambda key, start, count: obstore.get_range(bucket, f"{url.key}/{key}", start=start, length=count)


def _by_hdfs_native(url: Url) -> Read:
    import hdfs_native

    client = hdfs_native.Client(f"hdfs://{url.host}")
    return lambda key, start, count: client.read(f"/{url.key}/{key}").read_range(start, count)


_CLIENTS: dict[str, Callable[[Url], Read]] = {
    "store": _by_store,
    "opendal": _by_opendal,
    "obstore": _by_obstore,
    "hdfs-native": _by_hdfs_native,
}


def _print_table(rows: list[dict[str, Any]]) -> None:
    print("| client | threads | ranges/s | MB/s | p50 ms | p99 ms | CPU ms each | memory, MB | open files |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        figures = [f"{row[name]:.0f}" for name in ("ranges_per_second", "megabytes_per_second")]
        figures += [f"{row[name]:.2f}" for name in ("p50_milliseconds", "p99_milliseconds", "cpu_milliseconds")]
        memory = f"{row['megabytes'][0]:.0f} → {row['megabytes'][-1]:.0f}"
        files = f"{row['open_files'][0]} → {row['open_files'][-1]}"
        print(f"| {row['client']} | {row['threads']} | {' | '.join(figures)} | {memory} | {files} |")


if __name__ == "__main__":
    sys.exit(main())
