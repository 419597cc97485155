"""A running `imagesprint serve`, as a program of a user sees it: what it serves, and the logits of an image.

The client is Python's own and shares no code with the server: each is held against the other. An image goes as one
element of bytes, and its logits come as a binary tensor, as the Open Inference Protocol has it with its extension for
binary data.
"""

import json
import random
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import Any, Final, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import DataError, RecipeError, ServerError, UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import from_dict
from imagesprint.storage.url import READ_ONLY, Place, Url

ANSWER_SECONDS: Final = 60.0  # for which a server may be silent before it is taken for dead
PATIENCE: Final = 300.0  # seconds for which a request is sent again to a server that has no room for it
ATTEMPTS: Final = 3  # at one exchange
_BUSY: Final = (429, 502, 503, 504)  # of ours: no room, not loaded yet, too late; of a proxy before it: the like
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds, where no Retry-After says it, and whatever that says
_MOST_BYTES: Final = 64 << 20  # of an answer
_MODEL: Final = "/model"
_HEADER_LENGTH: Final = "Inference-Header-Content-Length"
_START: Final = "`imagesprint serve MODEL` starts one and prints its URL"


@dataclass(frozen=True)
class ServedModel:
    """What a server says of its model: the file, its recipe and classes, what runs it in which arithmetic, and when it
    was opened, in seconds since 1970 (0 of an earlier version's server).
    """

    checkpoint: str
    recipe: Recipe
    classes: tuple[str, ...]
    step: int
    num_train: int
    runtime: str
    precision: str
    opened: float

    @classmethod
    def of(cls, said: Any) -> Self:
        """From the answer's JSON. Raises KeyError, TypeError, ValueError or RecipeError where that is another one."""
        return cls(
            checkpoint=str(said["checkpoint"]),
            recipe=from_dict(said["recipe"]),
            classes=tuple(str(entry["name"]) for entry in said["classes"]),
            step=int(said["step"]),
            num_train=int(said["num_train"]),
            runtime=str(said["runtime"]),
            precision=str(said["precision"]),
            opened=float(said.get("opened", 0.0)),
        )


class RefusedError(DataError):
    """An image that the server does not take."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Message
    content: bytes

    def __str__(self) -> str:
        """The status, with the answer's own words where it has any."""
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            return f"{self.status}, {json.loads(self.content)['error']}"
        return str(self.status)


class Server:
    """The server at `url`, http:// or https://, with a path where a proxy puts one before its own.

    A context manager; any thread may ask. A request that finds no room is sent again, for PATIENCE. Raises UsageError
    for what is no such URL, and everywhere ServerError for a server that fails, is gone or is none of ours.
    """

    def __init__(self, url: Place) -> None:
        if not isinstance(url, Url) or url.scheme not in READ_ONLY:
            raise UsageError(f"{url} is no URL of a server", "it begins with http:// or https://")
        self._url = url
        self._path = f"/{quote(url.key)}".rstrip("/")
        self._connections: list[HTTPConnection] = []
        self._idle: SimpleQueue[HTTPConnection] = SimpleQueue()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; whoever waits for an answer gets a ServerError."""
        self._closed.set()
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError):  # it has ended already
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def model(self) -> ServedModel:
        """What it serves."""
        answer = self._patiently("GET", _MODEL, b"", {})
        if answer.status == 200:
            try:
                return ServedModel.of(json.loads(answer.content))
            except RecipeError as error:
                what = f"the server at {self._url} is of another version: {error.what}"
                raise ServerError(what, "use the version of imagesprint that serves") from error
            except (KeyError, TypeError, ValueError, RecursionError):
                pass  # of somebody else's server
        raise ServerError(f"{self._url} is no server of imagesprint: to GET {_MODEL} it answers {answer}", _START)

    def logits(self, model: ServedModel, encoded: bytes) -> NDArray[np.float32]:
        """What `model`, which it serves, makes of an image file: float32 [C]. Raises RefusedError for one that it does
        not take.
        """
        head, tensor = _request(encoded)
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}
        path = f"/v2/models/{quote(model.recipe.model)}/versions/{model.step}/infer"
        answer = self._patiently("POST", path, head + tensor, headers)
        if answer.status == 404:
            raise self.replaced(model)
        if 400 <= answer.status < 500:
            raise RefusedError(f"the server at {self._url} refuses it: {answer}", "see what it says of its limits")
        if answer.status != 200:
            raise ServerError(f"the server at {self._url} answers {answer}", "its own output says more")
        with suppress(KeyError, TypeError, ValueError, IndexError, RecursionError):
            return _tensor(answer, len(model.classes))
        raise ServerError(f"{self._url} answers with no tensor of {len(model.classes)} logits", _START)

    def replaced(self, model: ServedModel) -> ServerError:
        """The error that it does not serve `model` any more."""
        what = f"the server at {self._url} took another checkpoint than {model.checkpoint} while that was evaluated"
        return ServerError(what, "evaluate it again, or have it serve without --watch")

    def _patiently(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> _Answer:
        """The answer to a request, which is sent again as long as there is no room for it."""
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._send(method, path, body, headers)
            pause = _pause(answer.headers.get("Retry-After", ""))
            if answer.status not in _BUSY:
                return answer
            if time.monotonic() + pause > end:
                raise ServerError(
                    f"the server at {self._url} had no room for a request within {PATIENCE:.0f} s: {answer}",
                    "give it less to do meanwhile, then give the same command again",
                )
            self._closed.wait(pause)

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> _Answer:
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = self._connection()
        try:
            answer = self._exchange(connection, method, self._path + path, body, headers)
        except TimeoutError:
            what = f"does not answer within {ANSWER_SECONDS:.0f} s"
        except HTTPException as error:
            what = f"does not speak HTTP: {type(error).__name__} {error}".rstrip()
        except (OSError, UnicodeError) as error:
            what = f"is not there: {getattr(error, 'strerror', None) or error}"
        else:
            self._idle.put(connection)
            return answer
        connection.close()
        raise ServerError(f"the server at {self._url} {what}", _START)

    def _connection(self) -> HTTPConnection:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.host, timeout=ANSWER_SECONDS)
        if not 0 < connection.port < 1 << 16:
            raise UsageError(f"{self._url}: there is no port {connection.port}", "ports are 1 to 65535")
        self._connections.append(connection)
        return connection

    def _exchange(
        self, connection: HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> _Answer:
        """Send and receive, again where the connection ends first: a server may end one that it thinks is idle."""
        for attempt in range(ATTEMPTS):
            if self._closed.is_set():
                raise ServerError(f"what was asked of {self._url} is not wanted any more")
            try:
                with suppress(BrokenPipeError):  # it may answer before it has all, and take no more
                    connection.request(method, path, body, headers)
                response = connection.getresponse()
                content = response.read(_MOST_BYTES)
            except (ConnectionResetError, BrokenPipeError):  # the first is also what http.client makes of no answer
                connection.close()
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                if not response.isclosed():  # more than we read
                    connection.close()
                return _Answer(response.status, response.headers, content)
        raise AssertionError("the last attempt raises or returns")


def _pause(retry_after: str) -> float:
    """Seconds to wait, for a share longer than wanted: or all that were sent away would be back at once."""
    wanted = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else _PAUSE
    return min(wanted, _LONGEST_PAUSE) * random.uniform(1.0, 1.5)


def _request(encoded: bytes) -> tuple[bytes, bytes]:
    """The JSON and the tensor of a request: one image as an element of BYTES, its length before it."""
    tensor = struct.pack("<I", len(encoded)) + encoded
    image = {"name": "encoded", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
    logits = {"name": "logits", "parameters": {"binary_data": True}}
    return json.dumps({"inputs": [image], "outputs": [logits]}).encode(), tensor


def _tensor(answer: _Answer, num_classes: int) -> NDArray[np.float32]:
    """The logits [C] of the one image. Raises ValueError, KeyError, TypeError or IndexError for another answer."""
    length = int(answer.headers[_HEADER_LENGTH])
    (output,) = json.loads(answer.content[:length])["outputs"]
    logits = np.frombuffer(answer.content[length:], "<f4")
    if (output["name"], output["datatype"], output["shape"]) != ("logits", "FP32", [1, num_classes]):
        raise ValueError(output)
    if len(logits) != num_classes:
        raise ValueError(f"{len(logits)} logits")
    return logits.astype(np.float32)
