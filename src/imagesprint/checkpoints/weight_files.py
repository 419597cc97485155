"""Files of weights: our own checkpoints, sealed, and what other programs save, read without running anything in it.

A checkpoint's seal is the SHA-256 of all its bytes, in the file itself: torch.save makes a zip archive, and what stands
in an archive's comment is passed over by torch.load. The seal is that comment, put there when the archive is complete;
the hash is that of the archive without one.

What others save is a pickle in all its forms but safetensors, and a pickle may call any function. Here it may call
those that build tensors; an object of any other class (the `argparse.Namespace` beside the weights) becomes an `Inert`.
"""

import hashlib
import json
import pickle
import re
import tarfile
import types
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar, Final

import torch
from torch import Tensor
from torch.serialization import StorageType
from torch.storage import TypedStorage

from imagesprint.errors import CheckpointError, UsageError

PREFIX: Final = b"sha256:"
_SEAL_BYTES: Final = len(PREFIX) + 64
NO_COMMENT: Final = b"\0\0"  # an archive's last two bytes: the length of the comment that follows, little-endian
SEALED: Final = _SEAL_BYTES.to_bytes(2, "little")
_CHUNK: Final = 1 << 20

_LEGACY_MAGIC: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # torch.save's before 1.6: a number, in a pickle of its own
_MAX_SAFETENSORS_HEADER: Final = 100_000_000  # the format's own limit, in bytes
_UNPACK: Final = "unpack it, and name the file of weights in it"
_TAKES: Final = "init takes what torch.save or safetensors wrote: convert it to a state dict"
# By its first bytes: what a file is that torch.save never wrote, and what to do with it.
_OTHERS: Final = {
    b"\x89HDF": ("an HDF5 file, as Keras writes them", _TAKES),
    b"\x1f\x8b": ("compressed by gzip", "unpack it first: gunzip FILE"),
    b"BZh": ("compressed by bzip2", "unpack it first: bunzip2 FILE"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it first: unxz FILE"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it first: unzstd FILE"),
    b"version https://git-lfs": ("a pointer of git-lfs, not the file that it stands for", "fetch that: git lfs pull"),
    b"<": ("a page of the web or XML: the download gave an answer, not the file", "download it again"),
    b"\x80": ("a pickle that torch.save did not write", _TAKES),
}

# By the function that would have built them: tensors that serve as no weights, and so are not built.
_UNBUILT: Final = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (meta)",
    "torch._utils._rebuild_tensor_v3": "a tensor of a type that is not computed with (float8, uint16 …)",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device's own form",
}

# What torch computes with. Of the others (float8, int4, bits8 …) it cannot even say whether their values are finite.
_NUMBERS: Final = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def check_seal(path: Path) -> bool:
    """Whether the file at `path` is sealed. Raises CheckpointError where a byte of it is not what was written."""
    size = path.stat().st_size
    with path.open("rb") as file:
        rest = size - _SEAL_BYTES - len(SEALED)
        file.seek(max(0, rest))
        length, seal = file.read(len(SEALED)), file.read()
        if rest < 0 or (length != SEALED and not seal.startswith(PREFIX)):  # both are damaged at once by a cut alone
            return False
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(min(_CHUNK, rest - file.tell())):
            digest.update(chunk)
    digest.update(NO_COMMENT)
    if length != SEALED or seal != PREFIX + digest.hexdigest().encode():
        raise CheckpointError(f"{path} ({size} bytes) is damaged: its SHA-256 is not the one in it", "copy it again")
    return True


def checkpoint_hash(path: Path, content: IO[bytes] | None = None) -> str:
    """A hash over the names, sizes and CRC-32s of all that the archive `path` holds, without reading the tensors.

    `content` is read in its place where it is given. Raises CheckpointError where it is no archive.
    """
    try:
        with zipfile.ZipFile(content or path) as archive:
            entries = [(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()]
    except (
        OSError,
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
    ) as error:  # a name or version of its directory
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}", "delete it or copy it again") from error
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dict of tensors and plain types that a checkpoint file holds, on the CPU. Nothing in the file is executed.

    Raises UsageError where there is no such file, CheckpointError where it is cut short or no checkpoint.
    """
    kind = _kind(path)
    try:
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True) if kind != "safetensors" else None
    except Exception as error:  # whatever its bytes made of torch's reader, it is theirs
        raise _unreadable(path, kind, error) from error
    if not isinstance(content, dict):
        found = kind if content is None else type(content).__name__
        raise CheckpointError(
            f"{path} holds a {found}, not a dict of weights",
            "use a checkpoint that imagesprint train wrote",
        )
    return content


def read_foreign(path: Path) -> Any:
    """What the file of weights at `path` holds, whoever wrote it, on the CPU; nothing in the file is executed.

    It may be of torch.save, in any of its three formats, or of safetensors: its bytes say which, not its name. Objects
    that are no tensors and no plain types are Inert. Raises UsageError where there is no such file or the package
    safetensors is missing, CheckpointError where it is damaged or of another kind.
    """
    kind = _kind(path)
    try:
        if kind == "safetensors":
            return _read_safetensors(path)
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a module that was saved whole: its source cannot be compared
            return torch.load(file, "cpu", pickle_module=_PICKLE, weights_only=False, encoding="latin1")
    except UsageError:
        raise
    except Exception as error:  # whatever its bytes made of torch's reader, it is theirs
        raise _unreadable(path, kind, error) from error


def no_plain_tensor(value: Any) -> str | None:
    """What `value` is instead of a dense tensor of numbers that are there, in words; None where it is one."""
    if isinstance(value, Inert):
        return _UNBUILT.get(value.origin, f"an object of {value.origin}")
    if not isinstance(value, Tensor):
        return shown(value)
    faults = {
        "a quantised tensor": value.is_quantized,
        "a nested tensor": value.is_nested,
        "a sparse tensor": value.layout is not torch.strided,
        "a tensor without values (meta)": value.device.type == "meta",
        "a complex tensor": value.is_complex(),
        f"a tensor of {value.dtype}": value.dtype not in _NUMBERS,
        f"a {type(value).__name__}": type(value) not in (Tensor, torch.nn.Parameter),
    }
    return next((what for what, is_so in faults.items() if is_so), None)


def shown(value: object) -> str:
    """`value` from a file, short, for a message: its type and, where it is of a plain one, itself."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"int of {value.bit_length()} bits"
    plain = isinstance(value, str | int | float)
    return f"{type(value).__name__} {value!r:.60}" if plain else f"a {type(value).__name__}"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UsageError(f"{path} needs the safetensors package", "pip install safetensors") from error
    return dict(load_file(path))


class Inert(dict[Any, Any]):
    """An object in a foreign file that is no tensor and no plain type: its items, its `state`, and none of its code.

    `origin` is the name of its class, or of the function that would have made it.
    """

    origin: ClassVar[str] = ""
    state: Any = None
    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *_: Any) -> "Inert":
        return self

    def append(self, item: Any) -> None:
        """Forget an item of a list."""

    extend = add = append


class _Dict(dict[Any, Any]):
    """For an OrderedDict: without its attributes, of which a state dict has its modules' versions."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Builder:
    """A function that a file may call. A pickle can set attributes of what it gets hold of: not of this."""

    __slots__ = ("_function",)

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets attributes of a function")


def _tensor(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Tensor:
    if not isinstance(storage, TypedStorage) or min((offset, *shape, *strides)) < 0:
        raise ValueError("a tensor of it has no storage, or a negative size")
    untyped = storage._untyped_storage
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if 0 not in shape and end * storage.dtype.itemsize > untyped.nbytes():  # torch would enlarge it, by what lies there
        raise ValueError(f"a tensor of shape {list(shape)} reaches beyond the {untyped.nbytes()} bytes of its storage")
    return torch.empty(0, dtype=storage.dtype).set_(untyped, offset, torch.Size(shape), tuple(strides))


def _itself(tensor: Any, *_: Any) -> Any:
    return tensor


def _plain(build: Any, _: Any, arguments: tuple[Any, ...], *__: Any) -> Any:
    """A tensor of a subclass, or with attributes, as one without: of a known function or class, like all in a file."""
    return build(*arguments)


_KNOWN: Final = {
    ("collections", "OrderedDict"): _Dict,
    ("__builtin__", "set"): _Builder(frozenset),  # as Python 2 called it, and protocol 2 still does
    ("torch._utils", "_rebuild_tensor"): _Builder(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Builder(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Builder(_itself),
    ("torch._utils", "_rebuild_parameter_with_state"): _Builder(_itself),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _Builder(_itself),
    ("torch._tensor", "_rebuild_from_type_v2"): _Builder(_plain),
}


class _Unpickler(pickle.Unpickler):
    """Knows the classes above; torch.load adds how storages are found."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if name == "UntypedStorage":
            return StorageType("ByteStorage")  # type: ignore[no-untyped-call]
        if module == "torch" and name.endswith("Storage"):
            return StorageType(name)  # type: ignore[no-untyped-call]
        return type(name, (Inert,), {"origin": f"{module}.{name}"})


def _load(file: BinaryIO, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PICKLE: Final = types.SimpleNamespace(__name__="inert", Unpickler=_Unpickler, load=_load)  # in place of Python's own


def _kind(path: Path) -> str:
    """Which of zip, legacy, tar and safetensors the file at `path` is, and whole as far as its checksums say.

    Raises UsageError where there is no file, CheckpointError where it is damaged or anything else.
    """
    if not path.is_file():
        what = f"{path} is a folder, no checkpoint" if path.is_dir() else f"there is no checkpoint {path}"
        raise UsageError(what, "name a file such as RUN/checkpoints/step-0000625.pt")
    try:
        sealed = check_seal(path)
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"PK\3\4"):
            _check_archive(path, sealed)
            return "zip"
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}", "look to the disk, or copy it again"
        ) from error
    if head[257:262] == b"ustar":
        _check_tar(path)
        return "tar"
    if _LEGACY_MAGIC in head[:32]:
        return "legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER:
        return "safetensors"
    for start, (what, hint) in _OTHERS.items():
        if head.startswith(start):
            raise CheckpointError(f"{path} is {what}", hint)
    if not head.strip(b"\0"):
        raise _damaged(path, "it begins with zeros" if head else "it is empty")
    raise CheckpointError(f"{path} is no checkpoint: it begins with {head[:16]!r}", _TAKES)


def _check_archive(path: Path, sealed: bool) -> None:
    """Hold a zip archive that carries no seal against its own checksums, which torch ignores, and look what it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
            damaged = None if sealed else archive.testzip()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if not sealed and archive.comment.startswith(PREFIX):
        raise _damaged(path, "it is cut short within its SHA-256")
    if damaged is not None:
        raise _damaged(path, f"the checksum of {damaged} does not match")
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program rather than weights",
            "save its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
        )
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip archive of other things ({', '.join(names[:3])})", _UNPACK)


def _check_tar(path: Path) -> None:
    """Look whether a tar archive is one of torch.save's first format, of files alone: torch unpacks two of them."""
    try:
        with tarfile.open(path) as archive:
            members = {member.name: member.isfile() for member in archive}
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    if not {"storages", "tensors", "pickle"} <= members.keys() or not all(members.values()):
        raise CheckpointError(f"{path} is a tar archive of other things ({', '.join(list(members)[:3])})", _UNPACK)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} ({path.stat().st_size} bytes) is damaged or no checkpoint: {reason}",
        "delete it or copy it again; the checkpoint before it, if there is one, is used then",
    )


def _unreadable(path: Path, kind: str, error: Exception) -> CheckpointError:
    """What it means that a reader stumbled over a file whose checksums, where it has some, are right."""
    text = str(error)
    refused = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
    if refused:
        return CheckpointError(
            f"{path} holds an object of {refused[1]}: imagesprint train did not write it",
            "it serves as a start of training only: --set init=PATH",
        )
    reason = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    is_cut = (
        isinstance(error, EOFError) or re.search("EOF|truncated", text) or type(error).__name__ == "SafetensorError"
    )
    if kind != "zip" and is_cut:
        return _damaged(path, f"it is cut short ({reason})")
    return CheckpointError(
        f"{path} cannot be read as weights: {reason}",
        "load it where it was made, and save it anew: torch.save(model.state_dict(), NEW)",
    )
