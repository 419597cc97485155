"""`serve`: the port is taken first, then the model is opened behind it; a signal ends it once all is answered."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

import uvicorn
import uvloop

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.memory import give_back_freed_memory, share_freed_memory
from imagesprint.serving.app import build_app
from imagesprint.serving.connections import KEEP_ALIVE_SECONDS, Connection, max_connections
from imagesprint.serving.service import Service, Wanted, check_watched

GRACE_SECONDS: Final = 25  # for what was taken when a signal comes; who sends SIGTERM kills after 30 s, most often
_BACKLOG: Final = 1024  # connections that the system takes while we are busy
_SWITCH_SECONDS: Final = 5e-4  # after which a thread that works in Python lets another one have its turn


def serve(
    wanted: Wanted, host: str, port: int, watch: bool, console: Console, announce: Callable[[str, Service], object]
) -> NoReturn:
    """Serve the model until SIGTERM or SIGINT, then finish what was taken, and end the process with exit code 0.

    A second signal ends it at once. `announce` is called with the server's URL once it is ready. Port 0 is any that is
    free. Raises UsageError for a host or port that cannot be had, and as `open_model` does.
    """
    if watch:
        check_watched(wanted.place)
    with _listening(host, port) as listener:
        service = Service(wanted, console)
        url = _url(listener)
        console.line(f"loading     {wanted.place}; {url} answers already")
        serving = _serve(service, listener, watch, lambda: announce(url, service), console)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serving)
    console.close()
    _leave()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens. Raises UsageError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.errno is not None:
            reason = str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno)
        raise UsageError(
            f"cannot listen at port {port} of {host}: {reason}",
            "choose another --port (0 takes one that is free) or --host (127.0.0.1 for this machine, 0.0.0.0 for all)",
        ) from None
    with listener:
        yield listener


def _url(listener: socket.socket) -> str:
    """How to reach it from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's, which is told of signals by us: its own way ends in another exit code than 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """End once what was taken is answered."""
        self.should_exit = True


async def _serve(
    service: Service, listener: socket.socket, watch: bool, announce: Callable[[], object], console: Console
) -> None:
    sys.setswitchinterval(_SWITCH_SECONDS)
    share_freed_memory()
    Connection.limit = max_connections()
    _log_to(console)
    app = build_app(service)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=round(KEEP_ALIVE_SECONDS),
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    _on_signals(server)
    opening = asyncio.create_task(_open(service, watch, announce))
    opening.add_done_callback(lambda _: server.stop())
    giving_back = asyncio.create_task(give_back_freed_memory(lambda: app.passed))
    await server.serve(sockets=[listener])
    giving_back.cancel()
    opening.cancel()
    with suppress(asyncio.CancelledError):
        await opening  # raises what opening the model did


async def _open(service: Service, watch: bool, announce: Callable[[], object]) -> None:
    await service.open()
    gc.collect()
    gc.freeze()  # what is there now stays: looking through torch's 200,000 objects would stop everybody for 100 ms
    announce()
    if watch:
        await service.watch()
    await asyncio.Event().wait()  # until the server ends


def _on_signals(server: _Server) -> None:
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        if server.should_exit:
            _leave(128 + number)  # as a shell has it
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)


def _leave(code: int = 0) -> NoReturn:
    """End the process at once: Python's own way waits for what a library is doing, and takes a second anyway."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _log_to(console: Console) -> None:
    """Have what uvicorn reports as errors be warnings of ours, one line each; what Pillow thinks of images, none."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    log = logging.getLogger("uvicorn.error")
    log.handlers, log.propagate = [_OneLine(console)], False
    log.setLevel(logging.ERROR)


class _OneLine(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        reason = f": {type(error).__name__}: {error}" if error is not None else ""
        self._console.warn(f"{record.getMessage().strip()}{reason}")
