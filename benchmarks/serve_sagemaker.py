"""Starts `imagesprint serve` as Amazon SageMaker starts a container, speaks its contract, and stops it as it does.

    python benchmarks/serve_sagemaker.py MODEL [--photos FOLDER] [--load 8]

MODEL is a run, a checkpoint or an exported .onnx file. Without docker: the command line is the first process of new
namespaces (`unshare`), in which MODEL lies at /opt/ml/model, alone below an /opt that is empty otherwise; its words are
`serve` and nothing else. docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html is checked:

- it listens on port 8080, or where that is taken on the one in SAGEMAKER_BIND_TO_PORT;
- GET /ping gets 200 and an empty body within four minutes, each time within 2 s, and from then on always;
- a connection is accepted within 250 ms, and POST /invocations is answered within 60 s, for all kinds of content, with
  headers that are to be ignored; what is wrong gets a 4xx;
- SIGTERM, while LOAD clients ask, loses no request that was taken, and the process ends before SIGKILL, 30 s later.

Exits 3 if one of these fails.
"""

import argparse
import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from PIL import Image

READY_SECONDS = 240  # from the start to the first 200
PING_SECONDS = 2  # for one
ACCEPT_SECONDS = 0.25
ANSWER_SECONDS = 60
KILL_SECONDS = 30  # from SIGTERM to SIGKILL
ENTER = """
set -e
mount -t tmpfs none /opt
mkdir -p /opt/ml/model
if [ -d "$0" ]; then mount --bind "$0" /opt/ml/model; else cp "$0" /opt/ml/model/; fi
exec "$@"
"""
# What InvokeEndpoint hands on beside content: a container has to ignore it.
HEADERS = {
    "X-Amzn-SageMaker-Custom-Attributes": "trace-id=7",
    "X-Amzn-SageMaker-Target-Model": "another.tar.gz",
    "X-Amzn-SageMaker-Inference-Id": "8",
}


def free_port() -> int:
    """8080, or another one where that is taken."""
    for port in (8080, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("no port is free")


def start(model: Path, port: int) -> subprocess.Popen[bytes]:
    """The container: a process of its own namespaces, with the model at /opt/ml/model."""
    command = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER]
    kept = ("PATH", "PYTHONPATH", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {"HOME": "/root"}
    if port != 8080:
        environment["SAGEMAKER_BIND_TO_PORT"] = str(port)
    words = [str(model.resolve()), sys.executable, "-m", "imagesprint", "serve"]
    return subprocess.Popen([*command, *words], env=environment, cwd="/")


def first_process(container: subprocess.Popen[bytes]) -> int:
    """The number, out here, of the process that is the container's first."""
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    return int(children[0])


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, float]:
    """Status, body and seconds of one request on a connection of its own; 0 for a status where none is accepted."""
    begun = time.perf_counter()
    try:
        raw = socket.create_connection(("127.0.0.1", port), timeout=PING_SECONDS)
    except OSError:
        return 0, b"", time.perf_counter() - begun
    accepted = time.perf_counter() - begun
    raw.settimeout(ANSWER_SECONDS)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = raw
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    assert accepted < ACCEPT_SECONDS, f"a connection was accepted after {accepted:.3f} s"
    return answer.status, content, time.perf_counter() - begun


def wait_until_ready(container: subprocess.Popen[bytes], port: int) -> float:
    """Ping until 200; returns the seconds that took."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < READY_SECONDS:
        assert container.poll() is None, f"the container ended with {container.returncode}"
        status, content, seconds = ask(port, "GET", "/ping")
        assert seconds < PING_SECONDS, f"a ping took {seconds:.1f} s"
        if status == 200:
            assert content == b"", content
            return time.perf_counter() - begun
        assert status in (0, 503), f"a ping got {status}"
        time.sleep(0.2)
    raise AssertionError(f"no ping was answered with 200 within {READY_SECONDS} s")


def invoke(port: int, body: bytes, kind: str, accept: str = "application/json") -> tuple[int, object]:
    """Status and answer of an invocation."""
    headers = {"Content-Type": kind, "Accept": accept} | HEADERS
    status, content, seconds = ask(port, "POST", "/invocations", body, headers)
    assert seconds < ANSWER_SECONDS
    return status, json.loads(content) if content else None


def check_invocations(port: int, photo: bytes) -> int:
    """Every kind of content gives the same; what is wrong is said to be. Returns how many were made."""
    status, whole = invoke(port, photo, "image/jpeg")
    assert status == 200, whole
    for kind in ("application/x-image", "image/png", "application/octet-stream"):  # what it is, its bytes say
        assert invoke(port, photo, kind, "*/*") == (200, whole), kind
    two = json.dumps({"instances": [{"b64": base64.b64encode(photo).decode()}] * 2}).encode()
    assert invoke(port, two, "application/json") == (200, {"predictions": [whole, whole]})
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + photo + b"\r\n"
    status, several = invoke(port, part + b"--b--\r\n", "multipart/form-data; boundary=b")
    assert status == 200, several
    assert [one["top"] for one in several] == [whole["top"]]
    wrong = [
        (b"no image", "image/jpeg", "*/*"),
        (photo[: len(photo) // 2], "image/jpeg", "*/*"),
        (b"", "image/jpeg", "*/*"),
        (b"{}", "application/json", "*/*"),
        (b"{", "application/json", "*/*"),
        (b'{"instances": [{"b64": "%"}]}', "application/json", "*/*"),
        (photo, "text/csv", "*/*"),
        (photo, "image/jpeg", "text/csv"),
    ]
    for body, kind, accept in wrong:
        status, said = invoke(port, body, kind, accept)
        assert 400 <= status < 500, (kind, accept, status, said)
        assert said["error"], said
    return 6 + len(wrong)


def stop_under_load(container: subprocess.Popen[bytes], port: int, photo: bytes, clients: int) -> tuple[int, float]:
    """SIGTERM while `clients` ask; returns how many requests were answered, and the seconds until the end."""
    answered, lost = [0] * clients, list[str]()

    def ask_until_gone(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        connection.connect()
        while connection.sock is not None:  # which an answer ends that says so
            try:
                connection.request("POST", "/invocations", photo, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                content = answer.read()
            except OSError as error:
                lost.append(f"{type(error).__name__}: {error}")
                return
            if answer.status != 200:
                lost.append(f"{answer.status} {content!r}")
            answered[client] += 1

    threads = [threading.Thread(target=ask_until_gone, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    begun = time.perf_counter()
    os.kill(first_process(container), signal.SIGTERM)
    code = container.wait(KILL_SECONDS)
    seconds = time.perf_counter() - begun
    for thread in threads:
        thread.join()
    assert code == 0, f"the container ended with {code}"
    assert not lost, f"lost: {lost}"
    return sum(answered), seconds


def a_photo(folder: Path | None) -> bytes:
    """The first JPEG in the folder, or noise."""
    if folder is not None:
        return min(folder.rglob("*.jpg")).read_bytes()
    file = io.BytesIO()
    Image.effect_noise((320, 240), 60).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="where JPEGs lie; default: an image of noise")
    parser.add_argument("--load", type=int, default=8, metavar="N", help="clients while it is stopped; default 8")
    args = parser.parse_args()
    photo, port = a_photo(args.photos), free_port()
    container = start(args.model, port)
    try:
        ready = wait_until_ready(container, port)
        print(f"port {port}: pings get 200 after {ready:.1f} s")
        print(f"{check_invocations(port, photo)} invocations were answered as they should be")
        assert ask(port, "GET", "/ping")[:2] == (200, b"")
        answered, seconds = stop_under_load(container, port, photo, args.load)
        print(f"SIGTERM: ended after {seconds:.2f} s with 0; {answered} requests of {args.load} clients, none lost")
    except (AssertionError, subprocess.TimeoutExpired) as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 3
    finally:
        container.kill()  # and by --kill-child what is within
        container.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
