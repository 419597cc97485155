"""A running `imagesprint serve`, as a program of a user sees it: what it serves, and an image's logits.

The client is Python's own, and has no part in the server's code: each is held against the other.
"""

import json
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import Any, Final, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import DataError, ServerError, UsageError
from imagesprint.runs.rows import Count, Epochs, from_json
from imagesprint.storage.url import READ_ONLY, Url

ANSWER_SECONDS: Final = 60.0  # within which a server answers, or else is taken for dead
PATIENCE: Final = 300.0  # seconds for which an image is sent again to a server that has no room for it
_BUSY: Final = (429, 502, 503, 504)  # ours has no room, loads, or took too long; a proxy before it says the like
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds, where no Retry-After says it, and whatever that says
_MOST_BYTES: Final = 64 << 20  # of an answer
_START: Final = "start one: imagesprint serve MODEL; and name the URL that it prints"


@dataclass(frozen=True)
class ServedModel:
    """What a server says of its model; `eval_source` is the variant that its recipe evaluates on."""

    name: str
    checkpoint: str
    classes: tuple[str, ...]
    eval_source: str
    step: Count
    epoch: Epochs
    runtime: str
    precision: str


class RefusedError(DataError):
    """An image that the server does not take."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Any  # of http.client: an email.message.Message, whose names have no case
    content: bytes

    @property
    def reason(self) -> str:
        """What an error says: the text of `error` where there is one."""
        with suppress(ValueError, KeyError, TypeError):
            return f"{self.status}: {json.loads(self.content)['error']}"
        return f"{self.status}"


class Server:
    """The server at `url`, http:// or https://, perhaps with a path before its own. Any thread may ask.

    Raises UsageError for what is no such URL.
    """

    def __init__(self, url: Url) -> None:
        if url.scheme not in READ_ONLY:
            raise UsageError(f"{url} is no server's URL", "it begins with http:// or https://")
        self.url = url
        self._connections: list[HTTPConnection] = []
        self._idle: SimpleQueue[HTTPConnection] = SimpleQueue()
        self._closed = threading.Event()
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; who still waits for an answer gets a ServerError."""
        self._closed.set()
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError):  # it is closed already
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def model(self) -> ServedModel:
        """What it serves. Raises ServerError where it does not say that."""
        answer = self._patiently("GET", _MODEL)
        try:
            if answer.status == 200:
                return from_json(ServedModel, json.loads(answer.content))
            found = f"it answers {answer.reason}"
        except (ValueError, RecursionError) as error:
            found = str(error)
        raise ServerError(f"at {self.url} is no server of imagesprint: GET {_MODEL}: {found}", _START)

    def logits(self, encoded: bytes) -> NDArray[np.float32]:
        """The logits, float32 [C], of an image file. Raises RefusedError for an image that it does not take."""

    def _patiently(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> _Answer:
        """The answer to one request, which is sent again while the server is busy."""
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._send(method, path, body, headers)
            if answer.status not in _BUSY:
                return answer
            pause = _pause(answer.headers.get("Retry-After", ""))
            if time.monotonic() + pause > end:
                raise ServerError(
                    f"the server at {self.url} had no room for a request for {PATIENCE:.0f} s: it answers "
                    f"{answer.reason}",
                    "wait until it has less to do, then give the same command again",
                )
            self._closed.wait(pause)

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> _Answer:
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = self._connect()
        try:
            return self._converse(connection, method, path, body, headers)
        except TimeoutError as error:
            reason = f"does not answer within {ANSWER_SECONDS:.0f} s"
        except (OSError, HTTPException, UnicodeError) as error:
            ...
        finally:
            self._idle.put(connection)
