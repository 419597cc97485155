from pathlib import Path

import pytest
import torch

from imagesprint.errors import CheckpointError
from imagesprint.model.weight_files import check_seal, read_checkpoint, save_sealed


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "a.pt"
    with path.open("wb") as file:
        save_sealed({"weight": torch.arange(40.0), "step": 3}, file)
    return path


def test_a_sealed_file_is_read_as_any_other(sealed: Path) -> None:
    assert check_seal(sealed)
    content = torch.load(sealed, weights_only=True)
    assert content["step"] == 3
    assert torch.equal(content["weight"], torch.arange(40.0))


def test_every_flipped_bit_and_every_cut_is_found(sealed: Path) -> None:
    content = sealed.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        sealed.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(sealed)
    for length in range(0, len(content) - 80, 7):  # behind that, in the seal itself, all else is there
        sealed.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(sealed)


def test_one_without_a_seal_is_no_error(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "b.pt")
    assert not check_seal(tmp_path / "b.pt")
    assert read_checkpoint(tmp_path / "b.pt")["weight"].tolist() == [1, 1]
