"""A client's connection: uvicorn's, with limits that it lacks: of headers, of the time for each part, in number.

uvicorn cuts a connection that is idle after an answer. Here one is also cut that sends no request at first, sends one
without end or does not take its answer; and where there are too many, the one that has been idle for longest goes.
"""

import asyncio
import json
import resource
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEADER_BYTES: Final = 64 << 10  # of a request's line and headers
HEADER_SECONDS: Final = 10.0  # for them, from the first byte, or from the connection's beginning
KEEP_ALIVE_SECONDS: Final = 75.0  # idle after an answer; more than the 60 s of load balancers, which then end it first
BODY_SECONDS: Final = 60.0  # for the body
ANSWER_SECONDS: Final = 60.0  # from then on, until the client has taken the answer
LINGER_SECONDS: Final = 0.5  # when the server ends: in which a request that was on its way still counts as taken
MAX_CONNECTIONS: Final = 4096
_OWN_FILES: Final = 128  # descriptors that are no connections


def max_connections() -> int:
    """How many connections there may be: MAX_CONNECTIONS, or as many as the system allows files.

    The soft limit of open files is raised as far as the hard one.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, hard - _OWN_FILES))


class Connection(HttpToolsProtocol):
    """One connection. `limit` is of all; `idle` are those that wait for a request, the longest first."""

    limit = MAX_CONNECTIONS
    idle: dict["Connection", None] = {}  # noqa: RUF012 (of all)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._is_within = False  # a request, whose headers have come and whose body has not
        self._deadline: asyncio.TimerHandle | None = None
        self._is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle[self] = None
        if len(self.connections) > self.limit:
            next(iter(self.idle)).cut()
        self._restart_clock(HEADER_SECONDS, self.cut)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.idle.pop(self, None)
        self._stop_clock()

    def data_received(self, data: bytes) -> None:
        if self in self.idle:
            if self._deadline is None:
                self._restart_clock(HEADER_SECONDS, self.cut)
            if not self._is_within:  # within: the rest of a body that was answered before it was there
                self._header_bytes += len(data)
        super().data_received(data)
        if self in self.idle and self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(431, f"headers of more than {MAX_HEADER_BYTES >> 10} KiB", "send shorter ones")

    def on_headers_complete(self) -> None:
        self._restart_clock(BODY_SECONDS, self._refuse_slow)
        self.idle.pop(self, None)
        self._header_bytes = 0
        self._is_within = True
        super().on_headers_complete()
        if self._is_ending:
            self._announce_end()

    def on_message_complete(self) -> None:
        self._is_within = False
        self._restart_clock(ANSWER_SECONDS, self._cut_unless_answered)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # and none that was sent behind it has begun
            self.idle[self] = None
            if not self.transport.get_write_buffer_size():
                self._stop_clock()

    def shutdown(self) -> None:
        """End after the request that is under way, or one that was on its way when the server began to end."""
        self._is_ending = True
        if self in self.idle:
            self.loop.call_later(LINGER_SECONDS, self._end_idle)
        else:
            self._announce_end()

    def cut(self) -> None:
        """End at once."""
        if self.transport.get_write_buffer_size():  # which the client does not take
            self.transport.abort()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in JSON as all our answers are."""
        self._refuse(400, msg.rstrip("."), "send HTTP/1.1")

    def _refuse(self, status: int, what: str, hint: str) -> None:
        body = json.dumps({"error": what, "hint": hint}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _announce_end(self) -> None:
        """Have the answer under way say that it is the last on this connection, and be it."""
        self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]
        self.cycle.keep_alive = False

    def _end_idle(self) -> None:
        if self in self.idle:
            self.cut()

    def _refuse_slow(self) -> None:
        if self.cycle.response_started:
            self.cut()
        else:
            self._refuse(408, f"the body did not come within {BODY_SECONDS:.0f} s", "send it faster, or a smaller one")

    def _cut_unless_answered(self) -> None:
        self._deadline = None
        if self not in self.idle or self.transport.get_write_buffer_size():
            self.cut()

    def _restart_clock(self, seconds: float, late: Callable[[], None]) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(seconds, late)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
