"""`imagesprint serve` under load, beside LitServe and FastAPI with the same .onnx file, in turns, in one run.

    python benchmarks/serve_load.py [--seconds 60] [--clients 1,2,4,8,16,32,64] [--models NAME,…] [--peers PYTHON]
        [--kinds fastapi,litserve,…] [--folder DIR] [--output FILE.md]

Each turn is so many clients, each of which sends the next of 16 photos once the last is answered, for so many seconds
after two that do not count. Every answer is held against what the file gives for that photo here: of the pixels of
our decoder, or of Pillow's for the peers. All servers of a model are started before its first turn; those that are not
in turn are stopped by SIGSTOP. The clients are one process beside the server (`serve_load_client.py`), whose CPU time a
request is printed: on the machine's two cores it takes that from each of the servers alike.

PYTHON is an interpreter with litserve, fastapi, uvicorn, onnxruntime and Pillow; without it ours runs alone. In DIR the
models stay (`serving_models.py`). Prints tables in Markdown; exits 3 where an answer was wrong, late or lost.
"""

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from serve_load_peers import Model
from serving_models import NAMES, RECIPES, make_models, photos_for

from imagesprint.console import Console
from imagesprint.diagnosis.machine import processor
from imagesprint.inference.opening import open_model
from imagesprint.inference.prediction import ImageReader

HERE: Final = Path(__file__).parent
sys.path.insert(0, str(HERE / "servers"))

from server_process import free_ports  # noqa: E402

OURS: Final = {"imagesprint": "auto", "imagesprint, ONNX Runtime": "onnx"}
PEERS: Final = {
    "fastapi": "serve_load_peers.py",
    "fastapi-async": "serve_load_peers.py",
    "litserve": "serve_load_litserve.py",
    "litserve-json": "serve_load_litserve.py",
}
PHOTOS: Final = 16
WARM_SECONDS: Final = 2.0
START_SECONDS: Final = 180.0
# Of probabilities: batches of another size are rounded otherwise; int8 rounds to steps.
TOLERANCE: Final = {"fp32": 0.002, "int8": 0.03}


@dataclass(frozen=True)
class Contestant:
    """A server that runs, and what its clients send and expect."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    task: dict[str, Any]

    def turn(self, clients: int, seconds: float) -> dict[str, Any]:
        """What came of so many clients."""
        self.signal(signal.SIGCONT)
        task = self.task | {"clients": clients, "seconds": seconds, "warm_seconds": WARM_SECONDS, "port": self.port}
        words = [sys.executable, str(HERE / "serve_load_client.py")]
        done = subprocess.run(words, input=json.dumps(task), capture_output=True, text=True, check=False)
        self.signal(signal.SIGSTOP)
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


def body_of(kind: str, photo: bytes) -> tuple[str, bytes]:
    """The content type and the body of a request."""
    if kind == "litserve-json":
        return "application/json", json.dumps({"photo": base64.b64encode(photo).decode()}).encode()
    if kind == "litserve":
        head = b'--limit\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n'
        return (
            "multipart/form-data; boundary=limit",
            head + b"Content-Type: image/jpeg\r\n\r\n" + photo + b"\r\n--limit--\r\n",
        )
    return "image/jpeg", photo


def write_requests(folder: Path, kind: str, photos: Sequence[bytes]) -> list[str]:
    """Whole HTTP requests, a file each."""
    files = []
    for number, photo in enumerate(photos):
        content_type, body = body_of(kind, photo)
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        file = folder / f"{kind}-{number}.http"
        file.write_bytes(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        files.append(str(file))
    return files


def answers_of(file: Path, runtime: str | None, photos: Sequence[bytes]) -> NDArray[np.float64]:
    """The probabilities [N, C] that are right: of ours in `runtime`, of the peers where that is None."""
    if runtime is None:
        peer = Model(str(file))
        return peer.probabilities(np.stack([peer.pixels(photo) for photo in photos])).astype(np.float64)
    model = open_model(file, runtime, "cpu", Console.silent())
    with ImageReader(model.image_size, model.resize) as reader:
        pixels, _ = reader.decode(photos)
    logits = model.infer(pixels).astype(np.float64)
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: NDArray[np.float64] = exponents / exponents.sum(1, keepdims=True)
    return probabilities


def distinct(answers: NDArray[np.float64], tolerance: float) -> float:
    """The share of the pairs of photos whose answers cannot be taken for each other's."""
    apart = np.abs(answers[:, None] - answers[None]).max(2) > tolerance
    return float(apart.sum() / (len(answers) * (len(answers) - 1)))


@contextmanager
def started(name: str, words: list[str], port: int, task: dict[str, Any]) -> Iterator[Contestant]:
    """A server that answers, stopped until its turn; it is killed in the end."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
    contestant = Contestant(name, process, port, task)
    try:
        wait_until_ready(contestant)
        contestant.signal(signal.SIGSTOP)
        yield contestant
    finally:
        with suppress(ProcessLookupError):
            contestant.signal(signal.SIGKILL)
        process.wait()


def wait_until_ready(contestant: Contestant) -> None:
    """Wait until the first photo is answered."""
    whole = Path(contestant.task["requests"][0]).read_bytes()
    head, _, body = whole.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        connection = HTTPConnection("127.0.0.1", contestant.port, timeout=START_SECONDS)
        with suppress(OSError, HTTPException):
            connection.request("POST", "/predict", body, headers)
            if connection.getresponse().status == 200:
                return
        if contestant.process.poll() is not None:
            break
        time.sleep(0.3)
    raise SystemExit(f"{contestant.name} does not serve")


def contest(name: str, file: Path, photos: Sequence[bytes], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All turns of one model; a row each."""
    tolerance = TOLERANCE[name.rpartition("-")[2]]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers: list[Contestant] = []
        kinds = list(OURS) + list(arguments.kinds if arguments.peers else ())
        for kind, port in zip(kinds, free_ports(len(kinds)), strict=True):
            answers = answers_of(file, OURS.get(kind), photos)
            requests = write_requests(Path(folder), kind, photos)
            task = {"requests": requests, "answers": answers.tolist(), "tolerance": tolerance}
            if kind in OURS:
                words = [sys.executable, "-m", "imagesprint", "serve", str(file), "--port", str(port), "--quiet"]
                words += ["--runtime", OURS[kind]]
            else:
                words = [arguments.peers, str(HERE / PEERS[kind]), kind, str(file), str(port)]
            say(f"{name}: {kind}: {distinct(answers, tolerance):.0%} of the pairs of photos have answers of their own")
            servers.append(stack.enter_context(started(kind, words, port, task)))
        for number, clients in enumerate(arguments.clients):
            for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
                row = {"model": name, "clients": clients, "server": server.name}
                row |= server.turn(clients, arguments.seconds)
                say(f"{name}: {clients} clients of {server.name}: {row['per_second']:.1f}/s, p99 {ms(row['p99'])} ms")
                rows.append(row)
    return rows


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:,.1f}"


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Tables in Markdown, and how ours stands beside the better of the peers."""
    lines: list[str] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        lines += ["", f"## {model}", "", "| clients | server | requests/s | p50 ms | p90 ms | p99 ms |"]
        lines.append("|---:|---|---:|---:|---:|---:|")
        of_model = sorted((row for row in rows if row["model"] == model), key=lambda row: row["clients"])
        for row in of_model:
            times = " | ".join(ms(row[key]) for key in ("p50", "p90", "p99"))
            lines.append(f"| {row['clients']} | {row['server']} | {row['per_second']:,.1f} | {times} |")
        lines += ["", *verdicts(of_model)]
    asked, wrong, lost = (sum(row[key] for row in rows) for key in ("asked", "wrong", "lost"))
    each = 1e6 * sum(row["cpu_seconds_each"] * row["asked"] for row in rows) / asked
    lines += ["", f"{asked:,} requests, {wrong} answered wrongly or not with 200, {lost} not at all. The clients take"]
    lines.append(f"{each:.0f} µs of CPU a request: alone on a core they could send {1e6 / each:,.0f} a second.")
    return "\n".join(lines)


def verdicts(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for clients in dict.fromkeys(row["clients"] for row in rows):
        of_level = [row for row in rows if row["clients"] == clients]
        peers = [row for row in of_level if row["server"] not in OURS]
        for row in of_level if peers else ():
            if row["server"] in OURS:
                best = max(peers, key=lambda peer: peer["per_second"])
                p99 = min(peer["p99"] for peer in peers)
                yield (
                    f"- {clients} clients: {row['server']} {row['per_second'] / best['per_second']:.2f} × "
                    f"{best['server']}, the best of the peers; its p99 is {row['p99'] / p99:.2f} × their least"
                )


def heading(arguments: argparse.Namespace) -> str:
    versions = ["litserve", "fastapi", "uvicorn", "onnxruntime", "pillow"]
    code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {versions}), sep=', ')"
    found = ""
    if arguments.peers:
        found = subprocess.run([arguments.peers, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    own = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "openvino"))
    return "\n".join(
        [
            "# `imagesprint serve` under load",
            "",
            f"`python {' '.join(sys.argv)}`, commit {commit.strip()}, {processor()}.",
            f"Ours: {own}. Peers: {found or 'none'}. {arguments.seconds:g} s a turn.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=lambda text: [*map(int, text.split(","))], default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--models", type=lambda text: text.split(","), default=NAMES)
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=["fastapi", "litserve"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serve-load-") as scratch:
        folder = arguments.folder or Path(scratch)
        files = make_models(folder, arguments.models)
        rows = []
        for name in arguments.models:
            photos = photos_for(folder / "root", RECIPES[name.rpartition("-")[0]])
            rows += contest(name, files[name], [photo.content for photo in photos[:PHOTOS]], arguments)
    text = heading(arguments) + "\n" + report(rows) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
    print(text)
    return 3 if any(row["wrong"] or row["lost"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
