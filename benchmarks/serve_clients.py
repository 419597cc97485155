"""Speaks with a running `imagesprint serve` by NVIDIA's own client of the Open Inference Protocol, tritonclient[http].

    python benchmarks/serve_clients.py URL PHOTO…

Run it by a Python that has tritonclient[http]; imagesprint is not needed there:

    python3 -m venv DIR && DIR/bin/pip install 'tritonclient[http]'
    imagesprint serve RUN &
    DIR/bin/python benchmarks/serve_clients.py 127.0.0.1:8000 photo.jpg another.jpg

Image files and pixels, in binary and JSON, whole tensors and classifications, the blocking, the greenlets' and the
asyncio client: each has to give the same numbers, those of `/predict` within what six decimals hold, and what is wrong
has to be refused by an InferenceServerException with our words. Exits 3 where something does not.
"""

import argparse
import asyncio
import base64
import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

OUTPUTS = ("logits", "probabilities")
ROUNDING = 1e-5


def of_files(photos: list[bytes]) -> triton.InferInput:
    """The photos as the tensor `encoded`, in binary."""
    tensor = triton.InferInput("encoded", [len(photos)], "BYTES")
    return tensor.set_data_from_numpy(np.array(photos, dtype=np.object_))


def of_texts(photos: list[bytes]) -> triton.InferInput:
    """The photos as the tensor `encoded`, in JSON."""
    tensor = triton.InferInput("encoded", [len(photos)], "BYTES")
    texts = [base64.b64encode(photo) for photo in photos]
    return tensor.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=False)


def of_pixels(pixels: np.ndarray, binary: bool = True) -> triton.InferInput:
    """Prepared images as the tensor `images`."""
    tensor = triton.InferInput("images", list(pixels.shape), "UINT8")
    return tensor.set_data_from_numpy(pixels, binary_data=binary)


def wanted(binary: bool, classes: int = 0) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary, class_count=classes) for name in OUTPUTS]


def tensors(result: triton.InferResult) -> list[np.ndarray]:
    return [result.as_numpy(name) for name in OUTPUTS]


def check_close(found: list[np.ndarray], expected: list[np.ndarray], what: str) -> None:
    """Within the rounding of float32: batches, which depend on what came when, sum in another order."""
    for name, one, other in zip(OUTPUTS, found, expected, strict=True):
        assert one is not None, f"{what}: no {name}"
        assert one.shape == other.shape, f"{what}: {name} is {one.shape}, not {other.shape}"
        difference = abs(one - other).max() / abs(other).max()
        assert difference < ROUNDING, f"{what}: {name} differs by {difference:.1e} of its largest"
        print(f"{what}: {name} differs by {difference:.0e} of its largest")


def check_classes(result: triton.InferResult, answers: list[np.ndarray], url: str, photos: list[bytes]) -> None:
    """Classifications are the highest of the tensors, and what `/predict` answers."""
    for output, values in zip(OUTPUTS, answers, strict=True):
        rows = result.as_numpy(output)
        for row, numbers in zip(rows, values, strict=True):
            best = [int(text.split(b":")[1]) for text in row]
            assert best == np.argsort(-numbers, kind="stable")[: len(best)].tolist(), (row, numbers)
    for row, photo in zip(result.as_numpy("probabilities"), photos, strict=True):
        with urlopen(Request(f"http://{url}/predict?top={len(row)}", photo, method="POST")) as answer:
            top = json.load(answer)["top"]
        for text, candidate in zip(row, top, strict=True):
            value, index, label = text.decode().split(":", 2)
            assert abs(float(value) - candidate["probability"]) < 1e-6, (text, candidate)
            assert (int(index), label) == (candidate["class"], candidate["name"]), (text, candidate)
    print("classifications: the highest of the tensors, and what /predict answers")


def check_refused(client: triton.InferenceServerClient, name: str, pixels: np.ndarray, photo: bytes) -> None:
    """What is wrong is refused."""
    wrong = {
        "another model": lambda: client.infer("another", [of_files([photo])]),
        "another version": lambda: client.infer(name, [of_files([photo])], model_version="999999999"),
        "no image": lambda: client.infer(name, [of_files([b"no image"])]),
        "half an image": lambda: client.infer(name, [of_files([photo, photo[: len(photo) // 2]])]),
        "another size": lambda: client.infer(name, [of_pixels(pixels[:, 1:])]),
        "both inputs": lambda: client.infer(name, [of_files([photo]), of_pixels(pixels)]),
        "another output": lambda: client.infer(
            name, [of_files([photo])], outputs=[triton.InferRequestedOutput("features")]
        ),
        "another model's metadata": lambda: client.get_model_metadata("another"),
        "a compressed body": lambda: client.infer(name, [of_files([photo])], request_compression_algorithm="gzip"),
        "what the protocol has not": lambda: client.get_model_config(name),
    }
    for what, ask in wrong.items():
        try:
            ask()
        except InferenceServerException as error:
            said, status = error.message(), int(error.status())
        else:
            said, status = "was not refused", 200
        assert 400 <= status < 500, f"{what}: {status} {said}"
        print(f"{what}: {status} {said}")
    assert not client.is_model_ready("another")


async def ask_by_asyncio(url: str, name: str, photos: list[bytes]) -> list[np.ndarray]:
    """Sixteen requests at once; the answers lie behind one another."""
    async with triton_aio.InferenceServerClient(url) as client:
        results = await asyncio.gather(*(client.infer(name, [of_files(photos)]) for _ in range(16)))
    return [np.concatenate(answers) for answers in zip(*map(tensors, results), strict=True)]


def check(url: str, photos: list[bytes]) -> None:
    client = triton.InferenceServerClient(url, concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    server = client.get_server_metadata()
    print(f"server: {server}")
    assert {"binary_tensor_data", "classification"} <= set(server["extensions"])
    with urlopen(f"http://{url}/model") as answer:
        name = json.load(answer)["model"]
    model = client.get_model_metadata(name)
    print(f"model: {model}")
    version = model["versions"][0]
    assert client.is_model_ready(name)
    assert client.is_model_ready(name, version)

    result = client.infer(name, [of_files(photos)], request_id="7", model_version=version)
    assert {key: result.get_response()[key] for key in ("id", "model_name", "model_version")} == {
        "id": "7",
        "model_name": name,
        "model_version": version,
    }
    answers = tensors(result)
    for tensor, values in zip(model["outputs"], answers, strict=True):
        assert (len(photos), *tensor["shape"][1:]) == values.shape
    np.testing.assert_allclose(answers[1].sum(1), 1, rtol=1e-5)
    check_close(tensors(client.infer(name, [of_texts(photos)])), answers, "image files in base64")
    check_close(tensors(client.infer(name, [of_files(photos)], outputs=wanted(False))), answers, "answers in JSON")
    check_close(tensors(client.async_infer(name, [of_files(photos)]).get_result()), answers, "greenlets")
    check_close(asyncio.run(ask_by_asyncio(url, name, photos)), [np.tile(one, (16, 1)) for one in answers], "asyncio")
    check_classes(client.infer(name, [of_files(photos)], outputs=wanted(True, 5)), answers, url, photos)

    (tensor,) = model["inputs"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, *tensor["shape"][1:]), np.uint8)
    answers = tensors(client.infer(name, [of_pixels(pixels)]))
    check_close(tensors(client.infer(name, [of_pixels(pixels, False)])), answers, "pixels in JSON")
    check_refused(client, name, pixels, photos[0])
    client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", metavar="HOST:PORT")
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    args = parser.parse_args()
    try:
        check(args.url, [path.read_bytes() for path in args.photos])
    except AssertionError as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
