"""Clients of an HTTP server, in one process that costs it little: each sends a request once the last is answered.

    python benchmarks/serve_load_client.py < TASK.json

TASK: `port` of 127.0.0.1; `requests`, files with a whole HTTP request each; `answers`, for each the probability of
every class; `tolerance`, of these; `clients`, connections that are kept; `warm_seconds` before the `seconds` that
count. Each answer is JSON with `top`, a list of `class` and `probability`, and is held against `answers`. Prints JSON:
how many were answered, wrongly, with another status, and never, seconds by percentile, and the CPU time of all.

It uses sockets and epoll as they are: asyncio takes three times as long for a request.
"""

import json
import select
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

END = b"\r\n\r\n"
LENGTH = b"content-length:"
PATIENCE = 60.0  # seconds for what is on its way in the end
READ = 1 << 16


class Client:
    """One connection, with its request on the way."""

    def __init__(self, load: "Load", number: int) -> None:
        self._load, self._number = load, number
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._load.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._load.clients[self.socket.fileno()] = self
        self._load.poll.register(self.socket, select.EPOLLIN)

    def _drop(self) -> None:
        self._load.poll.unregister(self.socket)
        del self._load.clients[self.socket.fileno()]
        self.socket.close()

    def ask(self) -> None:
        """Send the next request."""
        self._number = (self._number + 1) % len(self._load.requests)
        self._rest = memoryview(self._load.requests[self._number])
        self._answer = bytearray()
        self._size = 0  # of the answer, once it is known
        self._began = time.perf_counter()
        self._load.asked += 1
        self.send()

    def send(self) -> None:
        try:
            self._rest = self._rest[self.socket.send(self._rest) :]
        except BlockingIOError:
            pass
        except OSError:
            self._rest = self._rest[:0]  # it may have answered before
        self._load.poll.modify(self.socket, select.EPOLLIN | (select.EPOLLOUT if self._rest else 0))

    def receive(self) -> None:
        try:
            data = self.socket.recv(READ)
        except OSError:
            data = b""
        if not data:  # an answer that never comes
            self._drop()
            self._load.lost += 1
            self._connect()
            self._next()
            return
        self._answer += data
        if not self._size and END in self._answer:
            head = bytes(self._answer[: self._answer.index(END)]).lower()
            start = head.index(LENGTH) + len(LENGTH)
            self._size = len(head) + len(END) + int(head[start:].split(b"\r\n", 1)[0])
        if self._size and len(self._answer) >= self._size:
            self._load.note(self._number, self._began, bytes(self._answer))
            if b"\nconnection: close" in bytes(self._answer[:1000]).lower():
                self._drop()
                self._connect()
            self._next()

    def _next(self) -> None:
        if time.perf_counter() < self._load.end:
            self.ask()
        else:
            self._load.running -= 1


class Load:
    """All clients, and what came of it."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.port: int = task["port"]
        self.requests = [Path(file).read_bytes() for file in task["requests"]]
        self._answers: list[list[float]] = task["answers"]
        self._tolerance: float = task["tolerance"]
        self.clients: dict[int, Client] = {}
        self.poll = select.epoll()
        self.asked = self.lost = self.wrong = self.answered = 0
        self.statuses: Counter[int] = Counter()
        self._times: list[float] = []
        self.running: int = task["clients"]
        self._count = self.running
        self._begin = time.perf_counter() + task["warm_seconds"]
        self.end = self._begin + task["seconds"]
        self._seconds: float = task["seconds"]

    def note(self, number: int, began: float, answer: bytes) -> None:
        """Hold an answer against the right one."""
        now = time.perf_counter()
        status = int(answer[9:12])
        self.statuses[status] += 1
        if status != 200 or not self._is_right(number, answer[answer.index(END) + len(END) :]):
            self.wrong += 1
        if self._begin <= now < self.end:
            self.answered += 1
            self._times.append(now - began)

    def _is_right(self, number: int, content: bytes) -> bool:
        wanted = self._answers[number]
        top = json.loads(content)["top"]
        close = all(abs(one["probability"] - wanted[one["class"]]) <= self._tolerance for one in top)
        return close and wanted[top[0]["class"]] >= max(wanted) - 2 * self._tolerance

    def run(self) -> dict[str, Any]:
        begun = time.process_time()
        for number in range(self._count):
            Client(self, number * 7).ask()
        while self.running and time.perf_counter() < self.end + PATIENCE:
            for number, events in self.poll.poll(1.0):
                client = self.clients.get(number)
                if client is None:  # gone since
                    continue
                if events & select.EPOLLOUT:
                    client.send()
                if events & ~select.EPOLLOUT:
                    client.receive()
        times = sorted(self._times)
        return {
            "asked": self.asked,
            "answered": self.answered,
            "wrong": self.wrong,
            "lost": self.lost + self.running,
            "statuses": self.statuses,
            "per_second": self.answered / self._seconds,
            **{f"p{share}": times[len(times) * share // 100] if times else None for share in (50, 90, 99)},
            "cpu_seconds_each": (time.process_time() - begun) / max(self.asked, 1),
        }


if __name__ == "__main__":
    print(json.dumps(Load(json.load(sys.stdin)).run()))
