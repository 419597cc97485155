"""The bodies of the Open Inference Protocol: what tritonclient sends, what is refused, what is answered."""

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.errors import UsageError
from imagesprint.serving.inference_messages import Output, read_request, write_answer

SIDE = 2  # pixels
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, SIDE, SIDE, 3)

# What tritonclient 2.73's `generate_request_body` gives for PIXELS, and for the image files b"ab\xff" and b"c".
TRITON_PIXELS = (
    b'{"inputs":[{"name":"images","shape":[2,2,2,3],"datatype":"UINT8","parameters":{"binary_data_size":24}}],'
    b'"parameters":{"binary_data_output":true}}'
)
TRITON_FILES = (
    b'{"id":"7","inputs":[{"name":"encoded","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":12}}],'
    b'"outputs":[{"name":"probabilities","parameters":{"binary_data":false}},'
    b'{"name":"logits","parameters":{"classification":2,"binary_data":true}}]}'
)
FILES_BEHIND = b"\x03\x00\x00\x00ab\xff\x01\x00\x00\x00c"


def test_pixels_in_binary_are_taken_as_tritonclient_sends_them() -> None:
    request = read_request(TRITON_PIXELS + PIXELS.tobytes(), str(len(TRITON_PIXELS)), SIDE)
    assert request.pixels is not None
    np.testing.assert_array_equal(request.pixels, PIXELS)
    assert request.identifier is None
    assert request.outputs == (Output("logits", True, 0), Output("probabilities", True, 0))


def test_image_files_in_binary_are_taken_as_tritonclient_sends_them() -> None:
    request = read_request(TRITON_FILES + FILES_BEHIND, str(len(TRITON_FILES)), SIDE)
    assert request.pixels is None
    assert request.encoded == (b"ab\xff", b"c")
    assert request.identifier == "7"
    assert request.outputs == (Output("probabilities", False, 0), Output("logits", True, 2))


@pytest.mark.parametrize("data", [PIXELS.ravel().tolist(), PIXELS.tolist()], ids=["flat", "nested"])
def test_pixels_in_json_are_flat_or_nested(data: list[Any]) -> None:
    request = read_request(body(data=data), None, SIDE)
    assert request.pixels is not None
    np.testing.assert_array_equal(request.pixels, PIXELS)
    assert request.outputs == (Output("logits", False, 0), Output("probabilities", False, 0))


def test_image_files_in_json_are_base64() -> None:
    data = [base64.b64encode(one).decode() for one in (b"ab\xff", b"c")]
    request = read_request(body(name="encoded", datatype="BYTES", shape=[2], data=data), None, SIDE)
    assert request.encoded == (b"ab\xff", b"c")


def body(outputs: Any = None, **changed: Any) -> bytes:
    """A request for PIXELS in JSON, with what is changed."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 2, 2, 3], "data": PIXELS.ravel().tolist()} | changed
    return json.dumps(
        {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}
        | ({} if outputs is None else {"outputs": outputs})
    ).encode()


def files(data: Any, shape: Any = (1,)) -> bytes:
    return body(name="encoded", datatype="BYTES", shape=shape, data=data)


WRONG = {
    "no JSON": (b"\xff\xd8\xff", "no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "many digits": (b"1" * 10_000, "no JSON"),
    "many values": (body(data=[0] * (1 << 20)), "more than 1,048,576 of ','"),
    "many lists": (body(data=[[]] * (1 << 19)), "more than 524,288 of '['"),
    "many names": (json.dumps(dict.fromkeys(range(10_001))).encode(), "more than 10,000 of ':'"),
    "many objects": (body(data=[{}] * 10_001), "more than 10,000 of '{'"),
    "no object": (b"[]", "not an object"),
    "no input": (b"{}", "inputs has 0 entries"),
    "two inputs": (b'{"inputs": [{}, {}]}', "inputs has 2 entries"),
    "an input that is none": (b'{"inputs": ["images"]}', "should be one tensor"),
    "inputs that are none": (b'{"inputs": {"images": []}}', "inputs is {'images': []}"),
    "id": (b'{"id": 7, "inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [""]}]}', "id is 7"),
    "name": (body(name="input0"), "no input 'input0'"),
    "no name": (body(name=None), "no input None"),
    "name of another kind": (body(name=["images"]), "name is ['images']"),
    "datatype": (body(datatype="FP32"), "datatype of images is 'FP32'"),
    "no shape": (body(shape=None), "shape of images is []"),
    "empty shape": (body(shape=[]), "shape of images is []"),
    "no image": (body(shape=[0, 2, 2, 3], data=[]), "shape of images is [0, 2, 2, 3]"),
    "negative": (body(shape=[-2, 2, 2, 3]), "shape of images is [-2, 2, 2, 3]"),
    "another size": (body(shape=[2, 4, 4, 3]), "shape of images is [2, 4, 4, 3]"),
    "channels first": (body(shape=[2, 3, 2, 2]), "it should be [-1, 2, 2, 3]"),
    "no batch": (body(shape=[2, 2, 3]), "shape of images is [2, 2, 3]"),
    "side of another kind": (body(shape=[2, 2.0, 2, 3]), "shape of images is [2, 2.0, 2, 3]"),
    "no data": (body(data=None), "either data or a binary_data_size"),
    "data twice": (body(parameters={"binary_data_size": 0}), "either data or a binary_data_size"),
    "binary that is not there": (body(data=None, parameters={"binary_data_size": 24}), "0 bytes follow the JSON"),
    "size of another kind": (body(data=None, parameters={"binary_data_size": True}), "binary_data_size is True"),
    "shared memory": (body(data=None, parameters={"shared_memory_region": "a"}), "shared memory"),
    "too many images": (body(shape=[10**30, 2, 2, 3]), "images has 24 values"),
    "too few values": (body(data=[0] * 23), "images has 23 values"),
    "too great": (body(data=[*range(23), 256]), "not all whole numbers of 0..255"),
    "negative value": (body(data=[*range(23), -1]), "not all whole numbers of 0..255"),
    "huge value": (body(data=[*range(23), 10**30]), "not all whole numbers of 0..255"),
    "a fraction": (body(data=[*range(23), 0.5]), "not all whole numbers of 0..255"),
    "text": (body(data=["1"] * 24), "not all whole numbers of 0..255"),
    "ragged": (body(data=[*PIXELS.tolist()[:1], [[[0] * 3] * 2]]), "do not have the shape"),
    "lists and numbers": (body(data=[[0] * 12, 0]), "do not have the shape"),
    "too deep": (body(data=[PIXELS.tolist()]), "do not have the shape"),
    "not deep enough": (body(data=[[0] * 12, [0] * 12]), "do not have the shape"),
    "no base64": (files(["a file"]), "not all strings of base64"),
    "beyond ASCII": (files(["ÿØÿ"]), "not all strings of base64"),
    "files that are numbers": (files([7]), "not all strings of base64"),
    "fewer files": (files(["YQ=="], [2]), "encoded has 1 elements"),
    "shape of files": (files(["YQ=="], [1, 1]), "shape of encoded is [1, 1]"),
    "unknown output": (body([{"name": "classes"}]), "no output 'classes'"),
    "output that is none": (body(["logits"]), "no output None"),
    "unnamed output": (body([{}]), "no output None"),
    "output twice": (body([{"name": "logits"}] * 2), "asked for twice"),
    "no class": (body([{"name": "logits", "parameters": {"classification": 0}}]), "classification is 0"),
    "classes of another kind": (body([{"name": "logits", "parameters": {"classification": "2"}}]), "classification is"),
    "output in shared memory": (body([{"name": "logits", "parameters": {"shared_memory_region": "a"}}]), "shared mem"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_protocol_does_not_allow_is_refused(name: str) -> None:
    content, said = WRONG[name]
    with pytest.raises(UsageError) as refused:
        read_request(content, None, SIDE)
    assert said in refused.value.what + refused.value.hint
    assert len(refused.value.what) < 300


@pytest.mark.parametrize(
    ("behind", "length", "said"),
    [
        (FILES_BEHIND[:-1], None, "11 bytes follow the JSON"),
        (FILES_BEHIND + b"c", None, "13 bytes follow the JSON"),
        (b"\x03\x00\x00\x00ab\xff\x02\x00\x00\x00c", None, "end within its element 1 of 2"),
        (b"\xff\xff\xff\xff" + FILES_BEHIND[4:], None, "end within its element 0 of 2"),
        (b"\x07\x00\x00\x00ab\xff\x01\x00\x00\x00c", None, "end within its element 1 of 2"),
        (b"\x00\x00\x00\x00\x01\x00\x00\x00abcd", None, "3 bytes follow the 2 elements"),
        (FILES_BEHIND, "0", "is '0'"),
        (FILES_BEHIND, "9999", "is '9999'"),
        (FILES_BEHIND, "-1", "is '-1'"),
        (FILES_BEHIND, "9" * 5000, "is '99999"),
        (FILES_BEHIND, "10", "no JSON"),
    ],
)
def test_binary_data_of_another_length_are_refused(behind: bytes, length: str | None, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_request(TRITON_FILES + behind, length or str(len(TRITON_FILES)), SIDE)
    assert said in refused.value.what


LOGITS = np.array([[0.5, 2.0, -1.0], [3.0, 3.0, 0.25]], np.float32)
CLASSES = ("daisy", "rose", "t\udcfclip")  # the last as a folder's name that is no text


def test_an_answer_in_json() -> None:
    outputs = [Output("logits", False, 0), Output("probabilities", False, 2)]
    content, length = write_answer({"model_name": "resnet20"}, outputs, LOGITS, CLASSES)
    assert length is None
    assert json.loads(content) == {
        "model_name": "resnet20",
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": LOGITS.ravel().tolist()},
            {
                "name": "probabilities",
                "datatype": "BYTES",
                "shape": [2, 2],
                "data": ["0.785597:1:rose", "0.175290:0:daisy", "0.484513:0:daisy", "0.484513:1:rose"],
            },
        ],
    }


def test_an_answer_with_binary_data() -> None:
    outputs = [Output("logits", True, 9), Output("probabilities", True, 0)]
    content, length = write_answer({}, outputs, LOGITS, CLASSES)
    labels, probabilities = json.loads(content[:length])["outputs"]
    assert (labels["datatype"], labels["shape"]) == ("BYTES", [2, 3])
    size = labels["parameters"]["binary_data_size"]
    behind = content[length:]
    assert behind[:20] == b"\x0f\x00\x00\x002.000000:1:rose\x10"
    assert behind[:size].endswith(b"0.250000:2:t\xfclip")
    assert (probabilities["shape"], probabilities["parameters"]) == ([2, 3], {"binary_data_size": 24})
    found = np.frombuffer(behind[size:], "<f4").reshape(2, 3)
    np.testing.assert_array_equal(found, torch.from_numpy(LOGITS).softmax(1).numpy())
