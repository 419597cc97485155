"""An ONNX file as `export` writes it: a graph, what its model is, and a hash over both by which damage is found.

Both stand behind the graph, as two entries of the field `metadata_props` (ModelProto in onnx.proto; messages of
protobuf may be joined by writing one behind the other). So any program of ONNX reads the file, and none is needed here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imagesprint.errors import CheckpointError, RecipeError, UsageError
from imagesprint.files import naming
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import from_dict

DESCRIPTION: Final = "imagesprint"  # the key of `formats.describe`, in JSON
_HASH: Final = "imagesprint.sha256"  # the key of the SHA-256 of all bytes before its entry, in hex
_METADATA_PROPS: Final = 14  # ModelProto's field, of StringStringEntryProto: 1 key, 2 value
_BYTES: Final = 2  # protobuf's wire type of strings and messages
_NOT_OURS: Final = "write one with imagesprint export RUN FILE.onnx"


@dataclass(frozen=True)
class OnnxFile:
    """The file's bytes, what `formats.describe` says of its model, and its recipe."""

    content: bytes
    description: Mapping[str, Any]
    recipe: Recipe

    @property
    def precision(self) -> str:
        """The arithmetic of the graph: fp32 or int8."""
        return str(self.description["precision"])


def sealed(graph: bytes, description: Mapping[str, object]) -> bytes:
    """The content of a file: `graph`, an encoded ModelProto, with its `description` and the hash."""
    body = graph + _entry(DESCRIPTION, json.dumps(description))
    return body + _entry(_HASH, hashlib.sha256(body).hexdigest())


def read_onnx(file: Path) -> OnnxFile:
    """The ONNX file that `export` wrote.

    Raises UsageError where there is none, FileError, and CheckpointError for one that is damaged or somebody else's.
    """
    if not file.is_file():
        raise UsageError(f"there is no file {file}", "name a run, a checkpoint or an exported .onnx file")
    with naming("read", file):
        content = file.read_bytes()
    length = len(_entry(_HASH, hashlib.sha256().hexdigest()))
    body, end = content[:-length], content[-length:]
    if end != _entry(_HASH, hashlib.sha256(body).hexdigest()):
        if _key(_HASH) in content or _key(DESCRIPTION) in content:
            raise CheckpointError(
                f"{file} is damaged, or was changed since export wrote it", "copy it anew, or export it"
            )
        raise CheckpointError(f"{file} is no ONNX file of imagesprint: it does not say its classes", _NOT_OURS)
    start = body.rindex(_key(DESCRIPTION))  # JSON in ASCII: no control character of a key is in it
    description = json.loads(body[body.index(b"{", start) :])
    try:
        return OnnxFile(content, description, from_dict(description["recipe"]))
    except RecipeError as error:  # a field that a later version has
        raise CheckpointError(f"{file}: {error.what}", "use the version of imagesprint that wrote it") from error


def _key(key: str) -> bytes:
    """The encoded key of an entry."""
    return _field(1, key.encode())


def _entry(key: str, value: str) -> bytes:
    return _field(_METADATA_PROPS, _key(key) + _field(2, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf's: number and wire type, the length as a varint, the content."""
    length, rest = bytearray(), len(content)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([number << 3 | _BYTES]) + bytes([*length, rest]) + content
