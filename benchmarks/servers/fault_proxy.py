"""A proxy before an HTTP store that does what networks and stores do: it is slow, refuses, cuts, corrupts, hangs.

    with FaultProxy("http://127.0.0.1:8333") as proxy:
        environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        proxy.faults.latency = 0.05            # at once, for what comes from now on
        proxy.faults.error_share = 0.3
        ...
        proxy.faults = Faults()                # none
        proxy.requests                         # [("GET", "/bucket/key"), …] that came so far

It runs in a thread of its own. Draws are by a generator with a seed, so that a run can be had again where its requests
come in the same order.
"""

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from server_process import free_ports

_PIECE = 1 << 16
_BODYLESS = (204, 304)


@dataclass
class Faults:
    """What goes wrong, each for a share (0 to 1) of the requests, drawn anew for each."""

    latency: float = 0.0  # seconds before each answer
    bytes_per_second: float = 0.0  # of each answer; 0 for as fast as it comes
    error_share: float = 0.0
    error: tuple[int, str] = (503, "SlowDown")  # status, and the code in an S3 error's XML
    error_headers: tuple[tuple[str, str], ...] = ()
    truncate_share: float = 0.0  # half of the body comes, then the connection closes
    corrupt_share: float = 0.0  # one bit of the body is another
    reset_share: float = 0.0  # the connection closes without an answer, once the store did what was asked
    hang: bool = False  # requests are read and never answered
    refuse: bool = False  # nobody listens


class FaultProxy:
    """See the module. `endpoint` is what clients are given."""

    def __init__(self, target: str, seed: int = 0) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._own_port = free_ports(1)[0]
        self.endpoint = f"http://127.0.0.1:{self._own_port}"
        self.requests: list[tuple[str, str]] = []
        self.faults = Faults()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="fault proxy", daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        if not self._is_ready.wait(10):
            raise RuntimeError("the fault proxy does not listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._listen())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    def _end(self) -> None:
        self._main.cancel()

    async def _listen(self) -> None:
        """Listen, but not while `refuse` says so."""
        server = None
        try:
            while True:
                if self.faults.refuse and server is not None:
                    server.close()
                    for task in tuple(self._tasks):
                        task.cancel()
                    server = None
                elif not self.faults.refuse and server is None:
                    server = await asyncio.start_server(self._accept, "127.0.0.1", self._own_port)
                self._is_ready.set()
                await asyncio.sleep(0.02)
        finally:
            if server is not None:
                server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry requests of one connection to a connection of its own to the store, until one side closes."""
        above_reader, above_writer = await asyncio.open_connection(self._host, self._port)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                self.requests.append((method, path))
                faults = self.faults
                if faults.hang:
                    await asyncio.sleep(3600)
                if self._draws(faults.error_share):
                    await self._refuse(reader, head, writer, faults)
                    continue
                if _header(head, "expect"):  # as boto3 has it; the store's own leave is not passed on
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                above_writer.write(head)
                await _copy_body(reader, head, above_writer)
                await asyncio.sleep(faults.latency)
                if not await self._answer(method, above_reader, writer, faults):
                    return
        finally:
            above_writer.close()

    def _draws(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    async def _refuse(
        self, reader: asyncio.StreamReader, head: bytes, writer: asyncio.StreamWriter, faults: Faults
    ) -> None:
        """Answer with an error of the store's."""
        await _copy_body(reader, head, None)
        await asyncio.sleep(faults.latency)
        status, code = faults.error
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said by the proxy</Message></Error>".encode()
        lines = [f"HTTP/1.1 {status} {code}", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in faults.error_headers]
        is_head = head.startswith(b"HEAD")
        writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if is_head else body))
        await writer.drain()

    async def _answer(
        self, method: str, above: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
    ) -> bool:
        """Carry one answer down; False where the connection is to be closed after it."""
        head = await above.readuntil(b"\r\n\r\n")
        if self._draws(faults.reset_share):
            return False
        status = int(head.split(b" ", 2)[1])
        if 100 <= status < 200:
            return await self._answer(method, above, writer, faults)
        writer.write(head)
        if method == "HEAD" or status in _BODYLESS:
            await writer.drain()
            return True
        body = await _read_body(above, head)
        if body and not _is_chunked(head) and self._draws(faults.corrupt_share):
            place = self._random.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        whole = not self._draws(faults.truncate_share)
        await self._send(body if whole else body[: len(body) // 2], writer, faults.bytes_per_second)
        return whole

    async def _send(self, body: bytes, writer: asyncio.StreamWriter, bytes_per_second: float) -> None:
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            writer.write(piece)
            await writer.drain()
            if bytes_per_second:
                await asyncio.sleep(len(piece) / bytes_per_second)
        await writer.drain()


def _header(head: bytes, name: str) -> str:
    """The value of a header in lower case; empty where it is not there."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip().lower()
    return ""


def _is_chunked(head: bytes) -> bool:
    return "chunked" in _header(head, "transfer-encoding")


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body of an answer as it is on the wire, with the frames of its chunks."""
    if not _is_chunked(head):
        length = _header(head, "content-length")
        return await reader.readexactly(int(length)) if length else await reader.read()
    pieces = []
    while True:
        line = await reader.readuntil(b"\r\n")
        pieces += [line, await reader.readexactly(int(line.split(b";")[0], 16) + 2)]
        if line.startswith(b"0\r\n"):
            return b"".join(pieces)


async def _copy_body(reader: asyncio.StreamReader, head: bytes, writer: asyncio.StreamWriter | None) -> None:
    """Carry the body of a request to the store, or nowhere."""
    left = int(_header(head, "content-length") or 0)
    while left:
        piece = await reader.read(min(_PIECE, left))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        if writer is not None:
            writer.write(piece)
            await writer.drain()
    if writer is not None:
        await writer.drain()
