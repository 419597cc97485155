import gzip
import io
import lzma
import pickle
import struct
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.checkpoints.weight_files import Inert, check_seal, checkpoint_hash, read_checkpoint, read_foreign
from imagesprint.checkpoints.writer import save_sealed
from imagesprint.errors import CheckpointError, UsageError


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    content: Any = {"weight": torch.arange(40.0), "step": 3}
    path = tmp_path / "a.pt"
    with path.open("wb") as file:
        save_sealed(content, file)
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


WEIGHTS = torch.arange(6.0).reshape(2, 3)


def write_first_format(path: Path, members: dict[str, bytes] | None = None) -> None:
    """As torch.save did before 0.1.10: a tar of storages, tensors and the pickle, in which a tensor is a number."""
    storages = b"".join(pickle.dumps(part, 2) for part in (1, (7, "cpu", torch.FloatStorage)))
    storages += struct.pack("<q", 6) + WEIGHTS.numpy().tobytes() + pickle.dumps([], 2)
    tensors = pickle.dumps(1, 2) + pickle.dumps((5, 7, torch.FloatTensor), 2)
    tensors += struct.pack("<ii2q2qq", 2, 0, 2, 3, 3, 1, 0)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> str | None:
            return "5" if isinstance(value, torch.Tensor) else None

    held = io.BytesIO()
    Pickler(held, 2).dump(OrderedDict(weight=WEIGHTS))
    with tarfile.open(path, "w") as archive:
        for name, data in (members or {"storages": storages, "tensors": tensors, "pickle": held.getvalue()}).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_all_formats_that_torch_had_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for protocol, new in ((2, True), (4, True), (2, False)):
        held = {"weight": torch.nn.Parameter(WEIGHTS)}
        torch.save(held, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
        assert torch.equal(read_foreign(path)["weight"], WEIGHTS)
    write_first_format(path)
    assert torch.equal(read_foreign(path)["weight"], WEIGHTS)
    shared = torch.arange(100.0)
    torch.save({"a": shared[10:20], "b": shared.reshape(10, 10).T}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_foreign(path)["a"], shared[10:20])
    assert torch.equal(read_foreign(path)["b"], shared.reshape(10, 10).T)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_would_run_code_stands_there_and_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    class Evil:
        def __init__(self, function: Any, *words: Any) -> None:
            self.call = function, words

        def __reduce__(self) -> Any:
            return self.call

    class Attributes:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_parameter, (), (None, {"_function": print})

    ran = tmp_path / "ran"
    path = tmp_path / "a.pt"
    for evil in (
        Evil(Path.touch, ran),
        Evil(eval, f"open({str(ran)!r}, 'w')"),
        Evil(exec, "1/0"),
        Evil(open, ran, "w"),
    ):
        torch.save({"weight": WEIGHTS, "other": evil}, path, _use_new_zipfile_serialization=not legacy)
        content = read_foreign(path)
        assert torch.equal(content["weight"], WEIGHTS)
        assert isinstance(content["other"], Inert)
        assert content["other"].origin.endswith(("getattr", "eval", "exec", "open")) or content["other"].origin == ""
        with pytest.raises(CheckpointError, match="holds an object of"):
            read_checkpoint(path)
    torch.save({"weight": WEIGHTS, "other": Attributes()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_foreign(path)
    assert not ran.exists()


def other_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Bytes that are no weights of torch's, and what is to be said of them."""
    held, script = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("config.json", "{}")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), script)  # type: ignore[no-untyped-call]
    write_first_format(folder / "tar", {"cat.jpg": b"image"})
    torch.save({"a": WEIGHTS}, folder / "whole", _use_new_zipfile_serialization=False)
    legacy = (folder / "whole").read_bytes()
    return {
        "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file, as Keras"),
        "Keras 3": (held.getvalue(), r"a zip archive of other things \(config.json\)"),
        "TorchScript": (script.getvalue(), "a TorchScript archive"),
        "gzip": (gzip.compress(legacy), "compressed by gzip"),
        "xz": (lzma.compress(legacy), "compressed by xz"),
        "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of git-lfs"),
        "tar": ((folder / "tar").read_bytes(), r"a tar archive of other things \(cat.jpg\)"),
        "pickle": (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
        "text": (b"weights", "no checkpoint: it begins with b'weights'"),
        "zeros": (bytes(5000), "damaged or no checkpoint: it begins with zeros"),
        "nothing": (b"", "damaged or no checkpoint: it is empty"),
        "legacy, cut in its values": (legacy[:-5], "damaged or no checkpoint: it is cut short"),
        "legacy, cut in its pickle": (legacy[:150], "damaged or no checkpoint: it is cut short"),
        "first format, cut": ((folder / "tar").read_bytes()[:700], "is a tar archive of other|damaged or no"),
        "safetensors, cut": (struct.pack("<q", 60) + b'{"a":{"dtype":"F32","shape"', "damaged or no checkpoint"),
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_files_of_other_kinds_are_called_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for name, (data, said) in other_files(tmp_path).items():
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=said) as caught:
            read_foreign(path)
        assert str(path) in caught.value.what, name
        assert ("delete it" in caught.value.hint) == ("damaged" in caught.value.what), name


def test_a_folder_and_a_missing_package_are_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        read_foreign(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<q", 2) + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UsageError, match="safetensors") as caught:
        read_foreign(tmp_path / "a.safetensors")
    assert "pip install safetensors" in caught.value.hint


def test_a_tensor_that_reaches_beyond_its_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.arange(10.0)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data.replace(b"K\n\x85", b"M\x00\x10\x85"))  # a shape of 4,096 for 10 values
    with pytest.raises(CheckpointError, match=r"shape \[4096\] reaches beyond"):
        read_foreign(path)


def test_what_is_no_archive_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("text")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint_hash(tmp_path / "x.pt")


def test_an_archive_whose_directory_is_damaged_has_no_hash_or_another(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(3)}, file)
    whole, before = file.read_bytes(), checkpoint_hash(file)
    errors = 0
    for place in range(whole.index(b"PK\1\2"), len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xE8]) + whole[place + 1 :])
        try:
            checkpoint_hash(file)
        except CheckpointError:
            errors += 1
    assert errors > 50
    file.write_bytes(whole)
    assert checkpoint_hash(file) == before
