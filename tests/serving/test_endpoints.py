"""What each endpoint answers, over HTTP, from a server in a process of its own."""

import json
import re
import struct
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imagesprint.console import Console
from imagesprint.inference.opening import OpenModel, open_model
from imagesprint.inference.prediction import ImageReader, candidates
from imagesprint.serving.app import all_routes
from imagesprint.serving.openapi import describe
from imagesprint.serving.service import Service, Wanted
from tiny_server import CLASSES, Answer, Server, ask, make_image, wait_for

FORM = "multipart/form-data; boundary=limit"
FIELD = b'--limit\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--limit--\r\n'


@pytest.fixture(scope="module")
def model(served_run: Path) -> OpenModel:
    return open_model(served_run, "torch", "cpu", Console.silent())


def likeliest(model: OpenModel, image: bytes, top: int) -> list[dict[str, Any]]:
    """What `predict` says."""
    with ImageReader(model.image_size, model.resize) as reader:
        pixels, failures = reader.decode([image])
    assert not failures
    (found,) = candidates(model.infer(pixels), model, top)
    return [{"class": one.label, "name": one.name, "probability": one.probability} for one in found]


def form(*files: tuple[str, bytes]) -> bytes:
    """A form with these files."""
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in files
    ]
    return b"".join(parts) + b"--limit--\r\n"


def png_header(side: int) -> bytes:
    """The beginning of a PNG of `side` × `side` pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def check_refused(answer: Answer, status: int, error: str) -> None:
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert answer.json.keys() == {"error", "hint"}
    assert error in answer.json["error"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_answered_as_predict_does(server: Server, model: OpenModel, kind: str) -> None:
    image = make_image(1, kind)
    for path, top in (("/predict", 3), ("/predict?top=2", 2), ("/predict?top=99", 3)):
        answer = server.ask(path, image)
        assert answer.status == 200
        assert answer.json == {"image": None, "top": likeliest(model, image, top)}
        assert re.fullmatch(r"server;dur=[\d.]+", answer.headers["Server-Timing"])


def test_a_form_is_answered_with_a_list_in_its_order(server: Server, model: OpenModel) -> None:
    images = [make_image(seed, size=(40 + seed, 40)) for seed in range(20)]
    files = [(f"é {number}.jpg", image) for number, image in enumerate(images)]
    answer = server.ask("/predict?top=1", form(*files, ("cut.jpg", images[0][:-100])), {"Content-Type": FORM})
    assert answer.status == 200
    *found, last = answer.json
    assert [one["image"] for one in found] == [name for name, _ in files]
    assert last.keys() == {"image", "error"}
    assert (last["image"], last["error"].partition(":")[0]) == ("cut.jpg", "damaged")
    for one, image in zip(found, images, strict=True):  # in batches, whose sums are rounded otherwise
        (wanted,) = likeliest(model, image, 1)
        assert one["top"] == [wanted | {"probability": pytest.approx(wanted["probability"], abs=1e-5)}]
    assert server.ask("/predict", form(files[0]), {"Content-Type": FORM}).json[0]["image"] == files[0][0]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "empty: the file has 0 bytes"),
        (b"no image at all", 415, "no image: it begins with"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported: it is SVG"),
        (make_image()[:-50], 422, "damaged: "),
        (make_image(kind="PNG")[:-50], 422, "damaged: "),
        (png_header(50_000), 413, "too large: Image size (2500000000 pixels) exceeds limit"),
        (png_header(7_072), 413, "too large: 7072 × 7072 pixels, and 50,000,000 in all are taken"),
        (bytes((32 << 20) + 1), 413, "a body of more than 32 MiB"),
    ],
    ids=["empty", "text", "svg", "cut jpeg", "cut png", "50,000²", "50 megapixels", "33 MB"],
)
def test_what_is_no_image_is_refused(server: Server, body: bytes, status: int, error: str) -> None:
    check_refused(server.ask("/predict", body), status, error)
    if body and len(body) < 1 << 20:
        check_refused(server.ask("/predict", form(("a.jpg", body)), {"Content-Type": FORM}), status, error)


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status", "error"),
    [
        ("/predict?top=0", "", b"", 400, "top='0' is not a whole number"),
        ("/predict?top=5x", "", b"", 400, "top='5x' is not a whole number"),
        ("/predict", "application/json", b"{}", 415, "a body of 'application/json' is no image"),
        ("/predict", "text/plain; charset=utf-8", b"a.jpg", 415, "a body of 'text/plain' is no image"),
        ("/predict", "multipart/form-data", b"", 400, "the form cannot be read: Missing boundary"),
        ("/predict", FORM, b"nonsense", 400, "the form cannot be read"),
        ("/predict", FORM, FIELD, 400, "the form holds no file"),
        ("/predict", FORM, form(*[("a.jpg", b"")] * 65), 413, "a request of 65 images"),
        ("/predict", FORM, form(*[("a.jpg", b"")] * 1001), 400, "Too many files"),
        ("/nothing", "", b"", 404, "POST /nothing: Not Found"),
        ("/health", "", b"", 405, "POST /health: Method Not Allowed"),
    ],
)
def test_bad_requests_are_refused(
    server: Server, path: str, content_type: str, body: bytes, status: int, error: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    check_refused(server.ask(path, body, headers), status, error)


def test_a_refused_body_leaves_its_connection_in_order(server: Server) -> None:
    connection = server.connect()
    for _ in range(3):
        check_refused(ask(connection, "/predict", bytes(33 << 20)), 413, "a body of more than 32 MiB")
        assert ask(connection, "/predict", make_image()).status == 200
    connection.close()


def test_a_body_without_a_length_is_limited_too(server: Server) -> None:
    connection = server.connect()
    connection.request("POST", "/predict", iter([bytes(1 << 20)] * 40), encode_chunked=True)
    response = connection.getresponse()
    check_refused(Answer(response.status, response.headers, response.read()), 413, "a body of more than 32 MiB")
    connection.close()


def test_a_client_that_goes_away_is_no_error(server: Server) -> None:
    def gone() -> bool:
        return b'imagesprint_rejected_total{reason="gone"} 1.0' in server.ask("/metrics").content

    with closing(server.connect()) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"half")
    assert wait_for(gone)


def test_the_server_tells_of_itself(server: Server, served_run: Path) -> None:
    assert server.ask("/ready").json == {"status": "ready"}
    health = server.ask("/health").json
    summary = {"model": "resnet20", "num_classes": 3, "step": 2, "image_size": 32, "precision": "fp32"}
    assert health == summary | {
        "status": "ready",
        "runtime": health["runtime"],
        "max_body_bytes": 32 << 20,
        "max_images": 64,
    }
    said = server.ask("/model").json
    assert said["checkpoint"] == str(served_run / "checkpoints" / "step-0000002.pt")
    assert said["classes"] == [{"name": name, "text": name} for name in CLASSES]
    assert (said["resize"], said["runtime"]) == (36, health["runtime"])


def test_metrics_count_what_was_asked(server: Server) -> None:
    def count(sample: str) -> float:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", server.ask("/metrics").content.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    samples = [
        'imagesprint_request_seconds_count{endpoint="predict",status="200"}',
        'imagesprint_rejected_total{reason="no_image"}',
        "imagesprint_batch_images_sum",
        "imagesprint_model_seconds_count",
        "imagesprint_decode_seconds_count",
    ]
    before = [count(sample) for sample in samples]
    assert server.ask("/predict", make_image()).status == 200
    assert server.ask("/predict", b"text").status == 415
    assert [count(sample) - value for sample, value in zip(samples, before, strict=True)] == [1, 1, 1, 1, 2]
    assert count("imagesprint_queue_images") == 0
    assert count("imagesprint_model_step") == 2
    assert server.ask("/metrics").headers["Content-Type"].startswith("text/plain; version=")


def test_openapi_names_each_route_with_its_methods(server: Server, tmp_path: Path) -> None:
    document = server.ask("/openapi.json").json
    assert document == describe()
    routes = all_routes(Service(Wanted(tmp_path, "torch", "cpu", False), Console.silent()))
    methods = {route.path: (route.methods or set()) - {"HEAD"} for route in routes if route.include_in_schema}
    assert {path: {method.upper() for method in item} for path, item in document["paths"].items()} == methods
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in document["components"]["schemas"]
