"""What the fetcher and those who ask it send one another over a Unix socket: JSON, then bytes."""

import contextlib
import json
import socket
import struct
import threading
from typing import Any, Final

from imagesprint import errors
from imagesprint.errors import ImagesprintError

Message = dict[str, Any]
PROTOCOL: Final = 1  # counted up when messages change: a fetcher of another one is another fetcher
WAITING: Final = "waiting"  # key of what the fetcher sends while an answer takes long
ERROR: Final = "error"  # key of an answer that is an ImagesprintError: its class, what and hint
_HEAD: Final = struct.Struct("<IQ")  # lengths of the JSON and of the bytes
_MOST_JSON: Final = 1 << 26


class GoneError(Exception):
    """The other side is gone, or was never there."""


class SilentError(GoneError):
    """The other side said nothing for as long as it may."""


class Wire:
    """One end of a connection. Several threads may send; one at a time may receive."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def send(self, message: Message, body: bytes | bytearray | memoryview = b"") -> None:
        """Send one message. Raises GoneError."""
        text = json.dumps(message).encode()
        try:
            with self._sending:
                self._socket.sendall(_HEAD.pack(len(text), len(body)) + text)
                if len(body):
                    self._socket.sendall(body)
        except OSError as error:
            raise GoneError(str(error)) from error

    def receive(self) -> tuple[Message, bytearray]:
        """Return the next message and its bytes. Raises GoneError, SilentError after the socket's time limit."""
        text_bytes, body_bytes = _HEAD.unpack(self._take(_HEAD.size))
        if text_bytes > _MOST_JSON:
            raise GoneError("what came is no message")
        message: Message = json.loads(self._take(text_bytes))
        return message, self._take(body_bytes)

    def _take(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        try:
            while view:
                came = self._socket.recv_into(view)
                if not came:
                    raise GoneError("the connection ended")
                view = view[came:]
        except TimeoutError as error:
            raise SilentError(str(error)) from error
        except OSError as error:
            raise GoneError(str(error)) from error
        return data

    def close(self) -> None:
        """End the connection, also for a thread that waits to receive."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def of_error(error: ImagesprintError) -> Message:
    """Return the message that `error` is."""
    return {ERROR: [type(error).__name__, error.what, error.hint]}


def to_error(message: Message) -> ImagesprintError:
    """Return the error that such a message is."""
    name, what, hint = message[ERROR]
    kind: type[ImagesprintError] = getattr(errors, name)
    return kind(what, hint)
