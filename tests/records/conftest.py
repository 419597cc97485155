"""A prepared ROOT that a test may damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def root(photo_root: Path, tmp_path: Path) -> Path:
    """A copy of `photo_root`: variants full and 32, three training shards and one for validation."""
    return Path(shutil.copytree(photo_root, tmp_path / "root"))


@pytest.fixture(scope="session")
def flip_bit() -> Callable[[Path, int], None]:
    """Flips one bit of the byte at a position of a file."""

    def flip(path: Path, position: int) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 0x10
        path.write_bytes(data)

    return flip
