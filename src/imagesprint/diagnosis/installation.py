"""All that `doctor` looks at without arguments: Python, packages, decoder, ranks, and the machine."""

import importlib
import os
import platform
import re
import resource
import socket
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import features

from imagesprint.diagnosis import machine
from imagesprint.diagnosis.check import FAILURE, Check, failure, ok, warning
from imagesprint.diagnosis.machine import core_limit, memory_limit, threads
from imagesprint.diagnosis.store_checks import data_store_checks
from imagesprint.errors import RankError, UsageError
from imagesprint.images.decoders import VARIABLE, chosen_decoder, describe_decoder
from imagesprint.images.native import LIBRARY, library
from imagesprint.records.dataset import open_root
from imagesprint.runs import sagemaker, slurm
from imagesprint.runs.environment import (
    STORE_VARIABLE,
    RankEnvironment,
    find_launch,
    is_launched,
    keeps_store,
    rank_environment,
)
from imagesprint.storage.url import Place, Url

_PACKAGE: Final = "imagesprint"
_FOR_DEVELOPERS: Final = ("dev", "interop")  # extras that no verb needs
_IMPORTED_AS: Final = {"scikit-learn": "sklearn"}  # where that is not the package's name
_PILLOW_COSTS: Final = "images load two to five times slower"  # 2.3 to 4.7: benchmarks/results/2026-11-21-bench-data.md
_LIBJPEG: Final = re.compile(rb"libjpeg-turbo version ([0-9.]+)")  # text inside the library
_DEFAULT_PORT: Final = 29500  # torchrun's --master-port
_CONNECT_SECONDS: Final = 2.0
# How other launchers say which task this is, and of how many; a task of theirs is no rank of ours.
_OTHERS: Final = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "Kubeflow": ("PET_NODE_RANK", "PET_NNODES"),
}


def machine_checks(folder: Path, data: Place | None) -> list[Check]:
    """One check a thing. Takes a few seconds, and for a moment 64 MiB in `folder`.

    `folder` is where a run is to be written, `data` the ROOT to be trained on, if it is known. Where that lies in
    a store, this is looked at, too, for a few seconds; where it is a folder, it raises as `open_root` does.
    """
    of_store: list[Check] = []
    if isinstance(data, Url):
        of_store, root = data_store_checks(data)
    else:
        root = open_root(data) if data is not None else None
    of_torch = pytorch()
    on_devices, gpus = _devices() if of_torch.status != FAILURE else ([], 0)
    return [
        python(),
        of_torch,
        *on_devices,
        packages(),
        *optional_packages(),
        decoder(),
        libjpeg(),
        machine.cores(core_limit()),
        machine.processor_check(),
        machine.memory(memory_limit()),
        machine.shared_memory(gpus),
        machine.disk(folder),
        machine.open_files(root, *resource.getrlimit(resource.RLIMIT_NOFILE)),
        *rank_checks(len(os.sched_getaffinity(0))),
        *of_store,
    ]


def _devices() -> tuple[list[Check], int]:
    """The checks of the devices, and the number of GPUs."""
    import torch

    return machine.devices(), torch.cuda.device_count()


def python() -> Check:
    """Python's version against the one that is needed."""
    version, wanted = platform.python_version(), metadata.metadata(_PACKAGE)["Requires-Python"]
    found = f"{version}, {sys.executable}"
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return failure("python", f"{found}, but {wanted} is needed", f"make a venv with a Python {wanted}")
    return ok("python", found)


def packages() -> Check:
    """The packages that are needed, by their versions; none is imported."""
    needs = _requirements("")
    wrong = [need for need in needs if not _is_met(need)]
    if wrong:
        found = ", ".join(f"{need.name} {_version(need.name) or 'is not installed'}" for need in wrong)
        return failure("packages", found, "pip install " + " ".join(f"'{need.name}{need.specifier}'" for need in wrong))
    return ok("packages", f"imagesprint {_version(_PACKAGE)}, and the {len(needs)} that it needs")


def pytorch() -> Check:
    """Whether PyTorch can be imported, without which nothing is known of devices."""
    try:
        import torch
    except Exception as error:  # OSError where a library is missing, and whatever a bad build raises
        hint = "pip install --force-reinstall torch, or make a new venv"
        return failure("pytorch", f"cannot be imported: {type(error).__name__}: {error}", hint)
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return ok("pytorch", f"{torch.__version__}, built {built}")


def optional_packages() -> list[Check]:
    """One check an extra, and one for `timm:NAME` models, which no extra installs: it would replace torch.

    What is installed is imported.
    """
    extras = [
        extra for extra in metadata.metadata(_PACKAGE).get_all("Provides-Extra") or [] if extra not in _FOR_DEVELOPERS
    ]
    return [
        *(
            _optional(
                f"extra {extra}", [need.name for need in _requirements(extra)], f"pip install '{_PACKAGE}[{extra}]'"
            )
            for extra in extras
        ),
        _optional(
            "timm", ["torchvision", "timm"], "first a torchvision made for this torch: pip may replace torch else"
        ),
    ]


def _optional(name: str, needs: Sequence[str], how: str) -> Check:
    there = [need for need in needs if _version(need) is not None]
    for need in there:
        try:
            importlib.import_module(_IMPORTED_AS.get(need, need.replace("-", "_")))
        except Exception as error:  # as above
            why = f"{need} {_version(need)} cannot be imported: {' '.join(str(error).split())}"
            return warning(name, why, f"install a version of {need} that fits the other packages, or remove it")
    found = [f"{need} {_version(need) or 'is not installed'}" for need in needs]
    return ok(name, ", ".join(found), "" if len(there) == len(needs) else f"optional; {how}")


def decoder() -> Check:
    """Which decoder is at work, and why it is not the native one where it is not."""
    name = "decoder"
    try:
        described, chosen = describe_decoder(), chosen_decoder()
    except UsageError as error:
        return failure(name, error.what, error.hint)
    if chosen == "pillow":
        return warning(name, f"{described}: {_PILLOW_COSTS}", f"unset {VARIABLE}")
    try:
        library()
    except UsageError as error:
        return warning(name, f"pillow, so {_PILLOW_COSTS}: {error.what}", error.hint)
    return ok(name, described)


def libjpeg() -> Check:
    """The versions of libjpeg-turbo that decode: the native decoder's and Pillow's."""
    native, pillow = _native_libjpeg(), features.version("libjpeg_turbo")
    found = f"libjpeg-turbo {native or 'of an unknown version'} in the native decoder, " if native is not None else ""
    if pillow is None:
        hint = "pip install --force-reinstall pillow brings one that has it"
        return warning("libjpeg", f"{found}none in Pillow {_version('pillow')}, which then decodes slower", hint)
    return ok("libjpeg", f"{found}{pillow} in Pillow")


def _native_libjpeg() -> str | None:
    """What the library that is mapped into this process says of itself; "" where it does not, None without one."""
    try:
        library()
    except UsageError:
        return None
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    ours = [Path(file) for file in mapped if Path(file).name.startswith("libjpeg.so")]  # Pillow's name has a hash
    for file in (*ours, LIBRARY):  # where it was linked statically, it is inside ours
        if match := _LIBJPEG.search(file.read_bytes()):
            return match[1].decode()
    return ""


def _requirements(extra: str) -> list[Requirement]:
    """What the package needs always, or for `extra` alone."""
    needs = [Requirement(text) for text in metadata.requires(_PACKAGE) or []]
    return [need for need in needs if bool(extra) == bool(need.marker) and (not extra or _is_of(need, extra))]


def _is_of(need: Requirement, extra: str) -> bool:
    return need.marker is not None and need.marker.evaluate({"extra": extra})


def _is_met(need: Requirement) -> bool:
    version = _version(need.name)
    return version is not None and need.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def rank_checks(cores: int) -> list[Check]:
    """Ranks, threads of each where this process may use `cores`, and ports."""
    try:
        found = rank_environment()
    except RankError as error:
        return [failure("ranks", error.what, error.hint), threads(cores, 1)]
    sharing = 1 if slurm.has_own_cores(cores) else found.local_world_size
    return [_ranks(found), threads(cores, sharing), _port(found)]


def _ranks(found: RankEnvironment) -> Check:
    launch = find_launch()
    where = f"number {found.local_rank} of {found.local_world_size} on this machine"
    if launch is not None:
        job = slurm.describe_job() if launch.launcher == "SLURM" else sagemaker.describe_job()
        return ok("ranks", f"rank {found.rank} of {found.world_size}, {where}: {job}")
    if "RANK" in os.environ:
        start = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "whoever set them"
        rule = "--processes" if is_launched() else f"RANK and WORLD_SIZE, by {start}"
        return ok("ranks", f"rank {found.rank} of {found.world_size}, {where}: {rule}")
    for launcher, (task, tasks) in _OTHERS.items():
        number = os.environ.get(tasks, "")
        if number.isdecimal() and int(number) > 1:
            what = f"{task}={os.environ.get(task, '')} of {number} is not read: each task would train for itself"
            hint = f"have {launcher} start one torchrun a machine, and that the ranks: it sets RANK and WORLD_SIZE"
            return warning("ranks", f"a single process, as RANK is not set; {launcher}'s {what}", hint)
    return ok("ranks", "a single process, as RANK is not set")


def _port(found: RankEnvironment) -> Check:
    name = "ports"
    if os.environ.get(STORE_VARIABLE):
        return ok(name, "none is needed: the ranks meet over a file")
    if found.world_size == 1:
        if _is_free(_DEFAULT_PORT):
            return ok(name, f"{_DEFAULT_PORT}, torchrun's, is free; a single process and --processes need none")
        hint = "give torchrun --standalone, or another --master-port; --processes needs no port"
        return warning(name, f"{_DEFAULT_PORT}, torchrun's, is in use", hint)
    launch = find_launch()
    address, text = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    port = int(text) if text.isdecimal() else 0
    if launch is not None:
        address, port = launch.address, launch.port
    if not address or not 0 < port < 1 << 16:
        what = f"MASTER_ADDR is {address!r} and MASTER_PORT {text!r}: the ranks cannot meet"
        return failure(name, what, "start the ranks with torchrun, which sets both, or with --processes")
    if found.rank == 0 and keeps_store():
        if _is_free(port):
            return ok(name, f"{port}, where rank 0 is to listen, is free")
        return failure(name, f"{port}, where rank 0 is to listen, is in use", "choose another MASTER_PORT on all ranks")
    return _reach(address, port)


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError:
            return False
    return True


def _reach(address: str, port: int) -> Check:
    try:
        socket.create_connection((address, port), _CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        hint = "start rank 0, or torchrun there, and look again; if it runs, its MASTER_PORT is another"
        return warning("ports", f"nobody listens at {address}:{port} yet", hint)
    except OSError as error:
        hint = "see to MASTER_ADDR, which must be a name or address of rank 0's machine, and to the firewall between"
        return failure("ports", f"{address}:{port} cannot be reached: {error.strerror or error}", hint)
    return ok("ports", f"{address}:{port} answers")
