"""A checkpoint's seal: the SHA-256 of all its bytes, in the file itself.

torch.save makes a zip archive, and what stands in an archive's comment is passed over by torch.load. The seal is that
comment, put there when the archive is complete; the hash is that of the archive without one.
"""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import torch

from imagesprint.errors import CheckpointError

PREFIX: Final = b"sha256:"
_SEAL_BYTES: Final = len(PREFIX) + 64
_NO_COMMENT: Final = b"\0\0"  # an archive's last two bytes: the length of the comment that follows, little-endian
_SEALED: Final = _SEAL_BYTES.to_bytes(2, "little")
_CHUNK: Final = 1 << 20


class _Hashing:
    """A file to write to that hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save_sealed(content: dict[str, Any], file: BinaryIO) -> None:
    """torch.save `content` into the empty `file` and seal it."""
    hashing = _Hashing(file)
    torch.save(content, cast(BinaryIO, hashing))
    file.seek(-len(_NO_COMMENT), 2)
    file.write(_SEALED + PREFIX + hashing.hash.hexdigest().encode())


def check_seal(path: Path) -> bool:
    """Whether the file at `path` is sealed. Raises CheckpointError where a byte of it is not what was written."""
    size = path.stat().st_size
    with path.open("rb") as file:
        rest = size - _SEAL_BYTES - len(_SEALED)
        file.seek(max(0, rest))
        length, seal = file.read(len(_SEALED)), file.read()
        if rest < 0 or (length != _SEALED and not seal.startswith(PREFIX)):  # both are damaged at once by a cut alone
            return False
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(min(_CHUNK, rest - file.tell())):
            digest.update(chunk)
    digest.update(_NO_COMMENT)
    if length != _SEALED or seal != PREFIX + digest.hexdigest().encode():
        raise CheckpointError(f"{path} ({size} bytes) is damaged: its SHA-256 is not the one in it", "copy it again")
    return True
