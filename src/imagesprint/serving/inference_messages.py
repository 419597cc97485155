"""What the Open Inference Protocol, version 2, says in the bodies of requests and answers, without any transport.

After its specification (github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md) and two
extensions of Triton's (github.com/triton-inference-server/server, docs/protocol): binary data behind the JSON, and
classification. The names `images` and `logits` are those of an exported .onnx file.
"""

import base64
import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from reprlib import repr as shown
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.errors import UsageError

PIXELS: Final = "images"  # the input that takes prepared pixels: UINT8 [N, image_size, image_size, 3]
FILES: Final = "encoded"  # the one that takes image files: BYTES [N]
OUTPUTS: Final = ("logits", "probabilities")  # FP32 [N, classes], each

_LENGTH: Final = struct.Struct("<I")  # of an element of a BYTES tensor, before it in binary data
_MAX_DIGITS: Final = 18  # of a header that counts bytes
# How often JSON may have these bytes: within half a second it is read, and refused, by the one thread that reads all
# requests. As many numbers are six images of 224 pixels; names and objects are few in any request.
_MOST: Final = {b",": 1 << 20, b"[": 1 << 19, b":": 10_000, b"{": 10_000}
_PREFIX: Final = "each image is preceded by its length in bytes, in four bytes, little-endian"
_KINDS: Final = {str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}

_Value = TypeVar("_Value", str, int, bool, list[Any], dict[str, Any])


@dataclass(frozen=True)
class Output:
    """An output that is asked for: its name, as binary data or JSON, and of how many classes; 0 for the tensor."""

    name: str
    binary: bool
    classes: int


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """A request: either `pixels`, uint8 [N, S, S, 3], or `encoded`, N image files; N ≥ 1."""

    identifier: str | None
    pixels: NDArray[np.uint8] | None
    encoded: tuple[bytes, ...]
    outputs: tuple[Output, ...]


def read_request(body: bytes, json_length: str | None, image_size: int) -> InferenceRequest:
    """Read a request whose pixels are to be `image_size` a side.

    `json_length` is the header Inference-Header-Content-Length, None where there is none. Raises UsageError for
    whatever the protocol, or a model of images, does not allow.
    """
    said, binary = _split(body, json_length)
    inputs = _get(said, "inputs", list) or []
    if len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise UsageError(f"inputs has {len(inputs)} entries that should be one tensor", f"give {PIXELS} or {FILES}")
    tensor: dict[str, Any] = inputs[0]
    name, data = _get(tensor, "name", str), _data(tensor, binary)
    pixels, encoded = None, tuple[bytes, ...]()
    if name == PIXELS:
        shape = _shape(tensor, "UINT8", (image_size, image_size, 3))
        pixels = np.frombuffer(_pixels(data, shape), np.uint8).reshape(shape).copy()
    elif name == FILES:
        (count,) = _shape(tensor, "BYTES", ())
        if isinstance(data, list) and len(data) != count:
            raise UsageError(f"{FILES} has {len(data):,} elements, and its shape [{count:,}] says {count:,}")
        encoded = tuple(_elements(data, count) if isinstance(data, memoryview) else decode_files(data))
    else:
        raise UsageError(
            f"there is no input {shown(name)}", f"the inputs are {PIXELS} and {FILES}; one of them is given"
        )
    return InferenceRequest(_get(said, "id", str), pixels, encoded, tuple(_outputs(said)))


def write_answer(
    head: dict[str, object], outputs: Sequence[Output], logits: NDArray[np.float32], classes: Sequence[str]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON where binary data follows that.

    `head` is what the answer says beside its outputs; `logits`, float32 [N, C], are in the order of `classes`.
    """
    described, behind = [], list[bytes]()
    for output in outputs:
        values = logits if output.name == "logits" else torch.from_numpy(logits).softmax(1).numpy()
        rows = [_best(row, classes, output.classes) for row in values] if output.classes else []
        texts = [text for row in rows for text in row]
        shape = [len(rows), len(rows[0])] if rows else list(values.shape)
        tensor: dict[str, object] = {"name": output.name, "datatype": "BYTES" if rows else "FP32", "shape": shape}
        if output.binary:
            data = b"".join(_prefixed(text) for text in texts) if rows else values.astype("<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        else:
            tensor["data"] = texts if rows else values.ravel().tolist()
        described.append(tensor)
    content = json.dumps({**head, "outputs": described}, allow_nan=False).encode()
    return b"".join((content, *behind)), len(content) if behind else None


def _split(body: bytes, json_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON object at the beginning of a body, and the binary data behind it."""
    size = len(body)
    if json_length is not None:
        is_number = json_length.isascii() and json_length.isdecimal() and len(json_length) <= _MAX_DIGITS
        size = int(json_length) if is_number else 0
        if not 0 < size <= len(body):
            raise UsageError(
                f"Inference-Header-Content-Length is {shown(json_length)}, and the body has {len(body):,} bytes",
                "give the length of the JSON before the binary data, in bytes",
            )
    return read_object(body[:size]), memoryview(body)[size:]


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that is a body. Raises UsageError; nobody is kept waiting while a huge one is read."""
    for mark, most in _MOST.items():
        if body.count(mark) > most:
            raise UsageError(f"the request's JSON has more than {most:,} of {mark.decode()!r}", "send binary data")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is no JSON: {error}", "only what is in base64 or behind it is binary") from error
    if not isinstance(said, dict):
        raise UsageError(f"the request is {shown(said)}, and not an object", "GET /openapi.json shows its form")
    return said


def _get(holder: dict[str, Any], key: str, kind: type[_Value]) -> _Value | None:
    """The value of an entry that may be left out."""
    value = holder.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{key} is {shown(value)}", f"it should be {_KINDS[kind]}")
    return value


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    return _get(holder, "parameters", dict) or {}


def _data(tensor: dict[str, Any], binary: memoryview) -> memoryview | list[Any]:
    """The data of the only input: what follows the JSON, or a list within it."""
    parameters = _parameters(tensor)
    if "shared_memory_region" in parameters:
        raise UsageError("the input lies in shared memory, which this server does not read", "send the data")
    size, data = _get(parameters, "binary_data_size", int), _get(tensor, "data", list)
    if (size is None) == (data is None):
        raise UsageError("an input has either data or a binary_data_size", "give one of both")
    if len(binary) != (size or 0):
        raise UsageError(
            f"{len(binary):,} bytes follow the JSON, and the input has {size or 0:,} there", "give all of it"
        )
    return binary if data is None else data


def _shape(tensor: dict[str, Any], datatype: str, rest: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an input that has `datatype`, and `rest` behind the size of the batch."""
    if (given := tensor.get("datatype")) != datatype:
        raise UsageError(f"the datatype of {tensor['name']} is {shown(given)}", f"it should be {datatype}")
    shape = _get(tensor, "shape", list) or []
    if not shape or any(type(side) is not int for side in shape) or (*shape[1:],) != rest or shape[0] < 1:
        what = f"the shape of {tensor['name']} is {shown(shape)}"
        raise UsageError(what, f"it should be {[-1, *rest]} with the number of images, 1 or more, for -1")
    return tuple(shape)


def _pixels(data: memoryview | list[Any], shape: tuple[int, ...]) -> memoryview | bytes:
    """The bytes of the pixels, in binary or a flat or nested list of whole numbers."""
    if isinstance(data, list):
        if data and isinstance(data[0], list):
            data = _flat(data, shape)
        try:
            data = memoryview(bytes(data))
        except (TypeError, ValueError) as error:  # the first for what is no whole number
            raise UsageError(f"the data of {PIXELS} are not all whole numbers of 0..255: {error}") from error
    if len(data) != math.prod(shape):
        raise UsageError(f"{PIXELS} has {len(data):,} values, and its shape {list(shape)} says {math.prod(shape):,}")
    return data


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """What lists within lists hold, row by row."""
    rows = [data]
    for length in shape:
        if any(not isinstance(row, list) or len(row) != length for row in rows):
            raise UsageError(f"the lists within {PIXELS} do not have the shape {list(shape)}")
        rows = list(chain.from_iterable(rows))
    return rows


def _elements(data: memoryview, count: int) -> Iterator[bytes]:
    """The elements of a BYTES tensor in binary: each behind its length."""
    place = 0
    for number in range(count):
        begin = place + _LENGTH.size
        length = _LENGTH.unpack_from(data, place)[0] if begin <= len(data) else len(data)
        place = begin + length
        if place > len(data):
            raise UsageError(f"the binary data of {FILES} end within its element {number} of {count:,}", _PREFIX)
        yield bytes(data[begin:place])
    if place != len(data):
        raise UsageError(f"{len(data) - place:,} bytes follow the {count:,} elements of {FILES}", _PREFIX)


def decode_files(texts: Sequence[Any]) -> list[bytes]:
    """The image files that strings in JSON hold, in base64. Raises UsageError where one does not."""
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the image files are not all strings of base64: {error}", "as of `base64 -w0 FILE`"
        ) from error


def _outputs(said: dict[str, Any]) -> Iterator[Output]:
    """The outputs that are asked for; where none is, all."""
    parameters = _parameters(said)
    all_binary = _get(parameters, "binary_data_output", bool) or False
    asked = _get(said, "outputs", list) or [{"name": name} for name in OUTPUTS]
    seen = set[str]()
    for output in asked:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS or name in seen:
            raise UsageError(
                f"there is no output {shown(name)}, or it is asked for twice", f"there are {' and '.join(OUTPUTS)}"
            )
        seen.add(name)
        yield _output(name, _parameters(output), all_binary)


def _output(name: str, parameters: dict[str, Any], all_binary: bool) -> Output:
    if "shared_memory_region" in parameters:
        raise UsageError("an output is wanted in shared memory, which this server does not write", "take the data")
    binary, classes = _get(parameters, "binary_data", bool), _get(parameters, "classification", int)
    if classes is not None and classes < 1:
        raise UsageError(f"classification is {classes}", "it should be the number of classes, 1 or more")
    return Output(name, all_binary if binary is None else binary, classes or 0)


def _best(values: NDArray[np.float32], classes: Sequence[str], count: int) -> list[str]:
    """The `count` highest of the values, as the classification extension writes them: VALUE:INDEX:LABEL."""
    order = np.argsort(-values, kind="stable")[:count]
    return [f"{values[index]:f}:{index}:{classes[index]}" for index in order]


def _prefixed(text: str) -> bytes:
    element = text.encode(errors="surrogateescape")  # names of folders need not be text
    return _LENGTH.pack(len(element)) + element
