"""What `serve_strikes.py` strikes a server with: bytes that a client may send, from broken photos to broken HTTP.

Each strike is a function of a Target. It yields what became of each request: a status, `closed` for a connection that
ended without an answer, or `silent` for one that did neither in time.
"""

import io
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

SECONDS: Final = 60.0  # for an answer, which no strike should need
PIECE: Final = 1 << 16
FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")

Outcome = int | str


@dataclass(frozen=True)
class Target:
    """The server that is struck: its port, its model's name and image size, and a photo that it answers."""

    port: int
    model: str
    image_size: int
    photo: bytes

    def connect(self, seconds: float = SECONDS) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """A whole request; `_` in the names of headers stands for `-`."""
    named = {"Host": "127.0.0.1", "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def send(connection: socket.socket, data: bytes) -> int:
    """Send as much of `data` as the server takes; how much that was."""
    sent = 0
    with suppress(OSError):
        while sent < len(data):
            sent += connection.send(data[sent : sent + PIECE])
    return sent


def answer(connection: socket.socket, buffer: bytearray) -> Outcome:
    """The status of the next answer on a connection; what follows it stays in `buffer`."""
    try:
        while b"\r\n\r\n" not in buffer:
            data = connection.recv(PIECE)
            if not data:
                return "closed"
            buffer += data
        head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0]) if lengths else 0
        while len(rest) < length:
            data = connection.recv(PIECE)
            if not data:
                return "cut short"
            rest += data
        buffer[:] = rest[length:]
        status = int(head[9:12])
        return answer(connection, buffer) if status == 100 else status
    except TimeoutError:
        return "silent"
    except OSError:
        return "closed"


def outcome(target: Target, data: bytes) -> Outcome:
    """What becomes of `data` on a connection of its own."""
    with target.connect() as connection:
        send(connection, data)
        return answer(connection, bytearray())


# Photos


def mutated(photos: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the photos, in one of FORMATS, with some damage."""
    data = bytearray(draw.choice(photos))
    kind = draw.randrange(6)
    if kind == 0:  # bits
        for _ in range(draw.choice((1, 4, 32))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == 1:  # cut short
        del data[draw.randrange(len(data)) :]
    elif kind == 2:  # the head of another one
        head = draw.choice((4, 12, 40, 200))
        data[:head] = draw.choice(photos)[:head]
    elif kind == 3:  # a piece of another one
        other, start = draw.choice(photos), draw.randrange(len(data))
        begin = draw.randrange(len(other))
        data[start : start + 300] = other[begin : begin + 300]
    elif kind == 4:  # bytes of the head, where sizes and counts stand
        for _ in range(3):
            data[draw.randrange(min(64, len(data)))] = draw.choice((0, 1, 127, 128, 255))
    else:  # something in the middle is gone
        start = draw.randrange(len(data))
        del data[start : start + draw.choice((1, 2, 64, 1000))]
    return bytes(data)


def photos_of_all_formats(photo: bytes) -> list[bytes]:
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    found = [photo]
    for name in FORMATS:
        file = io.BytesIO()
        image.save(file, name)
        found.append(file.getvalue())
    for options in ({"format": "JPEG", "progressive": True}, {"format": "JPEG", "quality": 30}):
        file = io.BytesIO()
        image.save(file, **options)
        found.append(file.getvalue())
    grey, palette, cmyk = io.BytesIO(), io.BytesIO(), io.BytesIO()
    image.convert("L").save(grey, "JPEG")
    image.convert("P").save(palette, "PNG")
    image.convert("CMYK").save(cmyk, "JPEG")
    return [*found, grey.getvalue(), palette.getvalue(), cmyk.getvalue()]


def png(width: int, height: int, bits: int = 1) -> bytes:
    """A whole PNG of one grey, packed as far as deflate goes."""
    packer, row = zlib.compressobj(9), bytes(1 + (width * bits + 7) // 8)
    data = b"".join([packer.compress(row * 100) for _ in range(height // 100)]) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def bombs(photo: bytes) -> Iterator[bytes]:
    """Small files of large images."""
    yield png(50_000, 50_000)
    yield png(13_000, 13_000, 8)  # within Pillow's own limit
    yield png(1_000_000, 100)
    start = photo.index(b"\xff\xc0") + 5  # of a baseline JPEG's height and width
    for side in (65_500, 65_535):
        yield photo[:start] + struct.pack(">HH", side, side) + photo[start + 4 :]
    yield (
        b"GIF89a"
        + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
        + b"\x08\x02\x04\x01\x00;"
    )
    yield b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield b"P6 50000 50000 255\n" + bytes(1000)
    yield b"P6 " + b"9" * 100_000 + b" 1 255\n"


def strike_bombs(target: Target) -> Iterator[Outcome]:
    for bomb in bombs(target.photo):
        yield outcome(target, request("/predict", bomb))


# Bodies


def strike_large_bodies(target: Target) -> Iterator[Outcome]:
    """400 MB, announced or not, in one piece or in chunks, to each path that takes a body."""
    zeros, count = bytes(PIECE), (400 << 20) // PIECE
    for path in ("/predict", "/invocations", f"/v2/models/{target.model}/infer"):
        for pieces, header in (
            ([zeros], {"Content_Length": str(count * PIECE)}),
            ([b"%x\r\n" % PIECE + zeros + b"\r\n"], {"Transfer_Encoding": "chunked"}),
        ):
            head = request(path, **header)
            if "Transfer_Encoding" in header:
                head = head.replace(b"Content-Length: 0\r\n", b"")
            with target.connect() as connection:
                sent = send(connection, head)
                for _ in range(count):
                    piece = send(connection, pieces[0])
                    sent += piece
                    if piece < len(pieces[0]):
                        break
                yield answer(connection, bytearray())


def strike_slow_senders(target: Target) -> Iterator[Outcome]:
    """Forty that send a byte a second, of the head or of the body, or stop in the middle."""
    whole = request("/predict", target.photo)
    connections = []
    for number in range(40):
        connection = target.connect()
        begin = (10, 60, whole.index(b"\r\n\r\n") + 4, len(whole) // 2)[number % 4]
        send(connection, whole[:begin])
        connections.append([connection, begin, number < 32])
    for _ in range(90):
        time.sleep(1)
        for entry in connections:
            if entry[2]:
                entry[1] += send(entry[0], whole[entry[1] : entry[1] + 1])
    for connection, *_ in connections:
        connection.settimeout(1)
        yield answer(connection, bytearray())
        connection.close()


def strike_half_closed(target: Target) -> Iterator[Outcome]:
    """Ends that come too early: of one direction, or of all at once, before, within and after a request."""
    whole, draw = request("/predict", target.photo), random.Random(0)
    for number in range(120):
        cut = (len(whole), draw.randrange(len(whole)), 0)[number % 3]
        with target.connect() as connection:
            send(connection, whole[:cut])
            if number % 2:
                connection.shutdown(socket.SHUT_WR)
                yield answer(connection, bytearray())
            else:  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                yield "closed"


def strike_idle_connections(target: Target) -> Iterator[Outcome]:
    """A thousand connections, a third of which begin a request, and one more that wants an answer."""
    whole = request("/predict", target.photo)
    idle = []
    with suppress(OSError):
        for number in range(1000):
            connection = target.connect(5)
            send(connection, whole[: (0, 0, 30)[number % 3]])
            idle.append(connection)
    time.sleep(2)
    yield f"{len(idle)} held"
    yield outcome(target, whole)
    for connection in idle:
        connection.close()


def multipart(*parts: bytes, boundary: str = "limit", end: bytes = b"--limit--\r\n") -> bytes:
    body = b"".join(b"--limit\r\n" + part + b"\r\n" for part in parts) + end
    return request("/predict", body, Content_Type=f"multipart/form-data; boundary={boundary}")


def strike_bad_multipart(target: Target) -> Iterator[Outcome]:
    named = b'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    photo = named + target.photo
    cases = [
        multipart(),
        multipart(photo, end=b""),
        multipart(photo, boundary="other"),
        multipart(photo, boundary=""),
        multipart(photo, boundary="x" * 100_000),
        multipart(photo[:-3000], end=b"--lim"),
        multipart(target.photo),
        multipart(b"\r\n\r\n"),
        multipart(b'Content-Disposition: form-data; name="text"\r\n\r\nno file'),
        multipart(*[named + b"x"] * 5000),
        multipart(*[b'Content-Disposition: form-data; name="t"\r\n\r\n1'] * 5000),
        multipart(b"X-Long: " + b"y" * 1_000_000 + b"\r\n" + photo),
        multipart(b"no header at all\r\n\r\n"),
        multipart(b'Content-Disposition: form-data; name="file"; filename="' + b"n" * 100_000 + b'"\r\n\r\n'),
        multipart(named),
        request("/predict", photo, Content_Type="multipart/form-data"),
        request("/predict", photo, Content_Type="multipart/mixed; boundary=limit"),
    ]
    for case in cases:
        yield outcome(target, case)


# Tensors


def infer(target: Target, said: Any, binary: bytes = b"", length: str | None = None) -> bytes:
    head = said if isinstance(said, bytes) else json.dumps(said).encode()
    headers = {"Inference_Header_Content_Length": length or str(len(head))} if binary or length else {}
    return request(f"/v2/models/{target.model}/infer", head + binary, **headers)


def tensor(name: str, datatype: str, shape: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, **more}]}


def bad_tensors(target: Target) -> Iterator[bytes]:
    """Tensors that do not fit the model, or themselves."""
    size = target.image_size
    shape, pixels = [1, size, size, 3], bytes(size * size * 3)
    sized = {"parameters": {"binary_data_size": len(pixels)}}
    for wrong in ([1, size, size], [0, size, size, 3], [-1, size, size, 3], [10**18, size, size, 3], [1, size, size, 4],
                  [True, size, size, 3], [1.0, size, size, 3], "1", None, [], [[1]], {"a": 1}):  # fmt: skip
        yield infer(target, tensor("images", "UINT8", wrong, **sized), pixels)
    for datatype in ("FP32", "INT64", "uint8", "", None, 7, ["UINT8"]):
        yield infer(target, tensor("images", datatype, shape, **sized), pixels)
    for count in (0, 1, len(pixels) - 1, len(pixels) + 1, -1, 10**30, "7", None, True):
        yield infer(target, tensor("images", "UINT8", shape, parameters={"binary_data_size": count}), pixels)
    for length in ("-1", "0", "99999999999999999999999", "x", "1e3", "5"):
        yield infer(target, tensor("images", "UINT8", shape, **sized), pixels, length)
    for data in ([], [0] * 7, [256] * len(pixels), [-1] * len(pixels), ["a"] * len(pixels), [None] * len(pixels),
                 [[[[0, 0, 0]]]], [[]], 5, "text", {"a": 1}, [1.5] * len(pixels), [True] * 3):  # fmt: skip
        yield infer(target, tensor("images", "UINT8", shape, data=data))
    for element in (b"", b"\0", struct.pack("<I", 2**32 - 1) + b"x", struct.pack("<I", 3) + b"no", bytes(4)):
        said = tensor("encoded", "BYTES", [1], parameters={"binary_data_size": len(element)})
        yield infer(target, said, element)
    for texts in (["no base64!"], ["AAAA"], [7], [], ["AAAA"] * 2, ["é"]):
        yield infer(target, tensor("encoded", "BYTES", [1], data=texts))
    yield infer(target, tensor("encoded", "BYTES", [100_000], data=["AAAA"] * 100_000))


def bad_json(target: Target) -> Iterator[bytes]:
    """What is no request of the protocol, or no JSON."""
    shape = [1, target.image_size, target.image_size, 3]
    pixels = bytes(target.image_size**2 * 3)
    inputs = tensor("images", "UINT8", shape, parameters={"binary_data_size": len(pixels)})
    twice = {"inputs": inputs["inputs"] * 2}
    for said in ({}, [], None, 7, "text", {"inputs": []}, {"inputs": [{}]}, {"inputs": [7]}, {"inputs": {}},
                 twice, tensor("other", "UINT8", shape)):  # fmt: skip
        yield infer(target, said)
    for outputs in ([{"name": "no"}], [7], "logits", [{"name": "logits", "parameters": {"classification": 0}}], [{}]):
        yield infer(target, {**inputs, "outputs": outputs}, pixels)
    for text in (b"", b"{", b"\xff\xfe", b"NaN", b'{"inputs": NaN}', b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000,
                 b'{"inputs": [1e999]}', b'"' + b"a" * 5_000_000, b"[" + b"0," * 3_000_000 + b"0]"):  # fmt: skip
        yield infer(target, text)


def strike_bad_tensors(target: Target) -> Iterator[Outcome]:
    for case in (*bad_tensors(target), *bad_json(target)):
        yield outcome(target, case)


# HTTP


def bad_http(target: Target) -> Iterator[bytes]:
    photo = target.photo
    yield from (
        request(f"/predict?top={top}", photo) for top in ("0", "-1", "x", "1.5", "9" * 40, "", "%00", "1&top=x")
    )
    yield from (request("/predict", photo, method=method) for method in ("PUT", "DELETE", "PATCH", "BREW", "GET"))
    yield from (
        request(path, photo) for path in ("/", "/no", "/predict/../x", "//predict", "/%ff%00", "/v2/models/no/infer")
    )
    yield from (
        request("/predict", body) for body in (b"", b"\0", b"text", b"<html>", b"%PDF-1.7", b"\xff\xd8", b"GIF89a")
    )
    yield request("/" + "a" * 100_000)
    yield request("/predict", photo, **{f"X_{i}": "y" * 50 for i in range(5000)})
    yield request("/predict", photo, X_Long="y" * 1_000_000)
    yield request("/predict", photo, Content_Length="-1")
    yield request("/predict", photo, Content_Length="1e3")
    yield request("/predict", photo, Content_Length=f"{len(photo)}, {len(photo) + 1}")
    yield request("/predict", photo).replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n", 1)
    yield request("/predict", photo, Transfer_Encoding="chunked")
    yield request("/predict", b"zz\r\n" + photo, Transfer_Encoding="chunked").replace(b"Content-Length", b"X-Length")
    yield request("/predict", photo, Content_Encoding="gzip", Content_Type="image/x-none; charset=\x7f")
    yield request("/predict", photo, Host="\0")
    yield b"GET\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)  # TLS
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield bytes(5000)
    yield b"POST /predict HTTP/9.9\r\nHost: a\r\n\r\n"
    yield b"POST  /predict HTTP/1.1\r\n : \r\n\r\n"


def strike_bad_http(target: Target) -> Iterator[Outcome]:
    for case in bad_http(target):
        yield outcome(target, case)


def strike_pipelining(target: Target) -> Iterator[Outcome]:
    """Two hundred requests on one connection before the first answer is read, every fifth of them bad."""
    whole = [request("/predict", b"no image" if i % 5 == 4 else target.photo) for i in range(200)]
    with target.connect() as connection:
        buffer, data, place = bytearray(), b"".join(whole), 0
        connection.setblocking(False)
        received: list[Outcome] = []
        end = time.monotonic() + SECONDS
        while place < len(data) and time.monotonic() < end:
            with suppress(BlockingIOError):
                place += connection.send(data[place : place + PIECE])
            with suppress(BlockingIOError):
                buffer += connection.recv(PIECE)
        connection.settimeout(SECONDS)
        received += [answer(connection, buffer) for _ in whole]
    for number, status in enumerate(received):
        yield ("right" if (status == 200) == (number % 5 < 4) else "wrong") if isinstance(status, int) else status


Strike = Callable[[Target], Iterator[Outcome]]
STRIKES: Final[dict[str, Strike]] = {
    "bombs": strike_bombs,
    "400 MB bodies": strike_large_bodies,
    "half-closed and reset": strike_half_closed,
    "a thousand idle connections": strike_idle_connections,
    "bad multipart": strike_bad_multipart,
    "bad tensors and JSON": strike_bad_tensors,
    "bad HTTP": strike_bad_http,
    "pipelining": strike_pipelining,
    "slow senders": strike_slow_senders,
}
