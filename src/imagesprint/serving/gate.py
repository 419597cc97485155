"""What every request passes: the limits of bodies, and the clock for /metrics and the client.

It stands around all endpoints, so that each may read its body as if there were no limits.
"""

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagesprint.serving.metrics import Metrics
from imagesprint.serving.refusals import BusyError, TooLargeError

MAX_BODY: Final = 32 << 20  # bytes of a request
MAX_HELD: Final = 256 << 20  # bytes of all requests that are not answered yet
_MIB: Final = 1 << 20


class Gate:
    """An ASGI application around `app`; `passed` counts the requests that are done with."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.passed = 0
        self._app = app
        self._metrics = metrics
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        body = _Body(self, scope, receive)
        status = 500

        async def send_timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                taken = 1e3 * (time.perf_counter() - begun)
                message["headers"] = [*message.get("headers", ()), (b"server-timing", b"server;dur=%.2f" % taken)]
            await send(message)

        try:
            await self._app(scope, body.receive, send_timed)
        finally:
            self.passed += 1
            self._held -= body.num_bytes
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.request(endpoint, status, time.perf_counter() - begun)

    def hold(self, num_bytes: int) -> None:
        """Count bytes of a body that arrived. Raises BusyError where there are too many of all requests."""
        self._held += num_bytes
        if self._held > MAX_HELD:
            raise BusyError(f"requests hold {self._held / _MIB:.0f} MiB of memory", "try again in 1 s", 1)


class _Body:
    """A request's body on its way; `num_bytes` of it have come."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive) -> None:
        self._gate = gate
        self._receive = receive
        self._announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        self.num_bytes = 0

    async def receive(self) -> Message:
        """What ASGI calls receive. Raises TooLargeError and BusyError."""
        if not self.num_bytes and self._announced.isdigit():
            self._check(int(self._announced))
        message = await self._receive()
        num_bytes = len(message.get("body", b""))
        self.num_bytes += num_bytes
        self._gate.hold(num_bytes)
        self._check(self.num_bytes)
        return message

    def _check(self, num_bytes: int) -> None:
        if num_bytes > MAX_BODY:
            raise TooLargeError(
                f"a body of more than {MAX_BODY // _MIB} MiB", "send a smaller image, or several in several requests"
            )
