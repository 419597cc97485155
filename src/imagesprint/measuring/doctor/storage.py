"""Disk, shared memory and open files."""

import errno
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from imagesprint.measuring.doctor.check import Check, failure, ok, warning
from imagesprint.records.dataset import OPEN_SHARE, Root
from imagesprint.records.manifest import Manifest

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
SHARED: Final = Path("/dev/shm")
_SHARED_NEEDED: Final = _GIB  # what NCCL's guide has `docker run --shm-size` set; docker gives 64 MiB
_PROBE_BYTES: Final = 64 * _MIB
_PROBE_SECONDS: Final = 0.5
_CHUNK_BYTES: Final = 4 * _MIB
_CHECKPOINT_BYTES: Final = 205 * 10**6  # ResNet-50: 25.6 million weights and as many momenta, four bytes each
_SLOW_SECONDS: Final = 10.0


def disk(folder: Path) -> Check:
    """Free space where `folder` lies, and how fast a file is written there, down to the disk."""
    name = "disk"
    free = shutil.disk_usage(folder).free
    try:
        speed = _write_speed(folder)
    except OSError as error:
        found = f"{folder} cannot be written: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return warning(name, found, "give --output a folder that is yours, or call doctor in one")
        return failure(name, found, "free some space there, or give --output a folder on another disk")
    seconds = _CHECKPOINT_BYTES / speed
    found = (
        f"{folder}: {free / _GIB:.1f} GiB free, writes {speed / _MIB:,.0f} MiB/s, a checkpoint of resnet50 in "
        f"{seconds:.1f} s"
    )
    if free < _GIB:
        return warning(name, found, "free some space, or keep few checkpoints: --keep last:3,best")
    if seconds > _SLOW_SECONDS:
        return warning(name, found, "write the run to a faster disk, or save seldom: --checkpoint-every 5000")
    return ok(name, found)


def shared_memory(gpus: int, folder: Path = SHARED) -> Check:
    """Whether processes can share memory through `folder`, as NCCL does on a machine with several `gpus`."""
    name = "shared memory"
    hint = "start the container with --shm-size=1g or --ipc=host, or mount a tmpfs there"
    if gpus < 2:
        hint += "; only several GPUs and `bench data`'s peers need it"
    complain = warning if gpus < 2 else failure
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_MIB))
            file.flush()
        size, _, free = shutil.disk_usage(folder)
    except OSError as error:
        return complain(name, f"{folder} cannot be used: {error.strerror}", hint)
    found = f"{folder}: {free / _GIB:.2f} of {size / _GIB:.2f} GiB are free"
    if free < _SHARED_NEEDED and gpus > 1:
        return warning(name, f"{found}, less than NCCL may take", hint)
    return ok(name, found)


def open_files(root: Root | None, soft: int, hard: int) -> Check:
    """The limits of open files against the shards that training keeps open: all of a split, of each variant."""
    name = "open files"
    found = f"at most {_count(soft)}, which this process may raise to {_count(hard)}"
    if root is None:
        return ok(name, found)
    shards = max(len(Manifest.read(root.path / variant).splits["train"].shards) for variant in root.variants)
    needed = shards * OPEN_SHARE
    if hard >= needed or resource.RLIM_INFINITY in (soft, hard):  # reading raises the soft limit by itself
        return ok(name, f"{found}; the {shards:,} shards stay open")
    raise_it = (
        f"have an administrator raise the hard limit to {needed} (docker --ulimit nofile={needed}, "
        f"systemd LimitNOFILE={needed})"
    )
    return warning(
        name, f"{found}: {shards:,} shards do not stay open, and are opened again for many batches", raise_it
    )


def _count(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _write_speed(folder: Path) -> float:
    """Bytes a second, synced; the file has no name and is gone afterwards. Raises OSError."""
    written, began = 0, time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        chunk = os.urandom(_CHUNK_BYTES)  # what a file system that compresses cannot shrink
        while written < _PROBE_BYTES and time.perf_counter() - began < _PROBE_SECONDS:
            written += file.write(chunk)
            os.fsync(file.fileno())
    return written / (time.perf_counter() - began)
