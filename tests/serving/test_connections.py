"""Connections that do not behave, at a server with short limits in a thread of this process."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
import uvicorn

from imagesprint.serving import connections
from imagesprint.serving.connections import Connection
from tiny_server import wait_for

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
Connect = Callable[[], socket.socket]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body; to /slow after a while, to /large with more than a socket holds."""
    assert scope["type"] == "http"
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        time.sleep(0.2)
    body = bytes(64 << 20) if scope["path"] == "/large" else str(length).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def echo_server() -> Iterator[tuple[uvicorn.Server, int]]:
    config = uvicorn.Config(echo, http=Connection, ws="none", lifespan="off", log_config=None, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert wait_for(lambda: server.started)
        yield server, listener.getsockname()[1]
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def connect(echo_server: tuple[uvicorn.Server, int], monkeypatch: pytest.MonkeyPatch) -> Connect:
    for name in ("HEADER_SECONDS", "BODY_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(connections, name, 0.4)
    return lambda: socket.create_connection(("127.0.0.1", echo_server[1]), timeout=10)


def is_ended(client: socket.socket) -> bool:
    """Whether the server has ended the connection, without another word."""
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def status(client: socket.socket) -> int:
    with closing(HTTPResponse(client)) as response:
        response.begin()
        response.read()
        return response.status


def test_who_sends_no_request_or_one_without_end_is_cut(connect: Connect) -> None:
    with connect() as silent, connect() as slow, connect() as behaved:
        slow.sendall(b"GET / HTTP/1.1\r\nA: ")
        for _ in range(20):  # for longer than HEADER_SECONDS
            time.sleep(0.05)
            try:
                slow.sendall(b"a")
            except OSError:
                break
        behaved.sendall(GET)
        assert is_ended(silent)
        assert is_ended(slow)
        assert is_ended(behaved)  # it, too, kept still at first


def test_idle_after_an_answer_is_not_silent(connect: Connect) -> None:
    with connect() as client:
        for _ in range(2):
            client.sendall(GET)
            assert status(client) == 200
            time.sleep(0.6)


def test_who_does_not_take_the_answer_is_cut(echo_server: tuple[uvicorn.Server, int], connect: Connect) -> None:
    before = len(echo_server[0].server_state.connections)
    with connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100)
        assert wait_for(lambda: len(echo_server[0].server_state.connections) == before, 10)


def test_a_body_that_does_not_come_is_refused(connect: Connect) -> None:
    with connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n")
        for _ in range(8):
            time.sleep(0.03)
            client.sendall(b"a")
        assert status(client) == 408


def test_headers_without_end_are_refused(connect: Connect) -> None:
    with connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nA: " + b"a" * (100 << 10))
        assert status(client) == 431


def test_what_is_no_http_is_refused_in_json(connect: Connect) -> None:
    with connect() as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")  # as TLS begins
        with closing(HTTPResponse(client)) as response:
            response.begin()
            assert (response.status, response.headers["Content-Type"]) == (400, "application/json")
            assert b"Invalid HTTP request" in response.read()


def test_pipelined_requests_are_answered_in_order(connect: Connect) -> None:
    with connect() as client:
        client.sendall(b"".join(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % n + bytes(n) for n in (3, 5, 7)))
        found = b""
        while found.count(b"HTTP/1.1 200") < 3 or not found.endswith(b"\r\n\r\n7"):
            found += client.recv(1000)
        assert [int(part.rpartition(b"\r\n\r\n")[2]) for part in found.split(b"HTTP/1.1 200")[1:]] == [3, 5, 7]
        client.sendall(GET)
        assert status(client) == 200


def test_where_there_are_too_many_the_longest_idle_one_goes(
    echo_server: tuple[uvicorn.Server, int], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wait_for(lambda: not echo_server[0].server_state.connections, 10)
    monkeypatch.setattr(Connection, "limit", 3)
    clients = [connect() for _ in range(3)]
    for client in clients:
        client.sendall(GET)
        assert status(client) == 200
    clients[0].sendall(GET)  # now it is the second that has been idle for longest
    assert status(clients[0]) == 200
    with connect() as newcomer:
        newcomer.sendall(GET)
        assert status(newcomer) == 200
        assert is_ended(clients[1])
        for client in (clients[0], clients[2]):
            client.sendall(GET)
            assert status(client) == 200
    for client in clients:
        client.close()


def test_a_request_on_its_way_when_the_server_ends_is_answered() -> None:
    server = uvicorn.Server(uvicorn.Config(echo, http=Connection, ws="none", lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        host, port = listener.getsockname()
        assert wait_for(lambda: server.started)
        idle, late = (HTTPConnection(host, port, timeout=10) for _ in range(2))
        for client in (idle, late):
            client.request("GET", "/")
            assert client.getresponse().read() == b"0"
        server.should_exit = True
        assert wait_for(lambda: not server.servers[0].is_serving())
        late.request("GET", "/slow")
        response = late.getresponse()
        assert (response.status, response.headers["Connection"]) == (200, "close")
        assert idle.sock is not None
        assert is_ended(idle.sock)
        thread.join(30)
        assert not thread.is_alive()
