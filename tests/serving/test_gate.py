"""The gate by itself, around an application that reads its body: what all requests together may hold."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from imagesprint.serving import gate
from imagesprint.serving.gate import Gate
from imagesprint.serving.metrics import Metrics
from imagesprint.serving.refusals import BusyError

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": []}


async def read_body(_: Any, receive: Any, send: Any) -> None:
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200})


def test_all_requests_together_hold_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_HELD", 1000)

    async def main() -> None:
        app, statuses = Gate(read_body, Metrics()), list[int]()

        async def ask(*parts: int, rest: asyncio.Event | None = None) -> None:
            """Send these bytes; the last once `rest` has come."""
            coming = list(parts)

            async def receive() -> dict[str, Any]:
                if len(coming) == 1 and rest is not None:
                    await rest.wait()
                return {"type": "http.request", "body": bytes(coming.pop(0)), "more_body": bool(coming)}

            async def send(message: Message) -> None:
                statuses.append(message["status"])

            await app(dict(SCOPE), receive, send)

        rest = asyncio.Event()
        first = asyncio.create_task(ask(800, 100, rest=rest))
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as caught:
            await ask(100, 200)
        assert caught.value.retry_after == 1
        rest.set()
        await first
        await ask(900)  # there is room again, also for what was refused
        assert statuses == [200, 200]

    asyncio.run(main())
