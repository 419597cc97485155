"""What this machine has and allows: cores, processor, memory, control groups, devices, disk."""

import errno
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from imagesprint.diagnosis.check import Check, failure, ok, warning
from imagesprint.images.native import is_available, library
from imagesprint.records.dataset import Root
from imagesprint.records.shard_files import OPEN_SHARE

_MIB: Final = 1 << 20
GIB: Final = 1 << 30


def processor() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    return f"{_cpu('model name') or platform.machine()}, {cores} core{'' if cores == 1 else 's'}"


def kept_measurements() -> Path:
    """Return the folder of what was measured here and is kept for the next time; it need not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesprint/calibrations"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of imagesprint, of Python and of those of `packages` that are installed."""
    found = {"python": platform.python_version()}
    for name in ("imagesprint", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu(*keys: str) -> str:
    """What /proc/cpuinfo says of the first core under one of `keys`; empty where it has none of them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(keys)), "")


MOUNTS: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")  # cgroups(7): a line a hierarchy, NUMBER:CONTROLLERS:PATH; version 2 names none
_UNLIMITED: Final = 1 << 60  # version 1 says "none" by a number near 2**63


def core_limit(mounts: Path = MOUNTS, own: Path = OWN) -> float | None:
    """How many cores' time the groups allow, which need not be whole; None where they set no limit."""
    limits = []
    for folder in _groups("cpu", mounts, own):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if words and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def memory_limit(mounts: Path = MOUNTS, own: Path = OWN) -> tuple[int, int] | None:
    """The tightest limit of memory and what is left of it, in bytes; None where the groups set no limit.

    Cached files count as left: the kernel drops them where memory is needed.
    """
    limits = []
    for folder in _groups("memory", mounts, own):
        limit, used = (
            _words(folder / new) or _words(folder / old)
            for new, old in (
                ("memory.max", "memory.limit_in_bytes"),
                ("memory.current", "memory.usage_in_bytes"),
            )
        )
        if limit and used and limit != ["max"] and int(limit[0]) < _UNLIMITED:
            limits.append((int(limit[0]), int(limit[0]) - int(used[0]) + _cached(folder)))
    return min(limits, key=lambda limit: limit[1], default=None)


def _groups(controller: str, mounts: Path, own: Path) -> Iterator[Path]:
    """The folders of the groups around this process that `controller` may limit, the innermost first."""
    for line in own.read_text(encoding="utf-8").splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mounts / controllers if (mounts / controllers).is_dir() else mounts / controller
        # Of a container the path may be the host's, which is not to be seen from within; its own group is at the top.
        for inner in (path, *map(str, Path(path).parents)):
            yield top / inner.lstrip("/")


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


def _cached(folder: Path) -> int:
    words = _words(folder / "memory.stat")
    rows = dict(zip(words[::2], words[1::2], strict=False))
    return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))


# `imagesprint demo` takes 0.54 GiB at its peak (ru_maxrss; two cores, torch 2.13 for the CPU)
_LITTLE_MEMORY: Final = 2 * GIB
_SET: Final = "unset OMP_NUM_THREADS, or set it to {}; torchrun sets it to 1 where it is not set"


def cores(limit: float | None) -> Check:
    """The cores that this process may use; `limit` is what `core_limit` says."""
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{allowed} of {there}"
    if limit is None:
        return ok("cores", f"{found}, no limit of their time")
    found += f", but the cgroup allows the time of {limit:g}"
    if limit >= allowed:
        return ok("cores", found)
    fitting = max(1, int(limit))
    return warning(
        "cores",
        f"{found}: {allowed} threads would be stopped again and again",
        f"give the container more (docker --cpus {allowed}), or set OMP_NUM_THREADS={fitting} before each command",
    )


def threads(allowed: int, ranks: int) -> Check:
    """OMP_NUM_THREADS, which torch and the loader heed, against the share of `allowed` cores of each of `ranks`."""
    share, wanted = max(1, allowed // ranks), os.environ.get("OMP_NUM_THREADS", "")
    if not wanted:
        return ok("threads", f"{share} a rank; OMP_NUM_THREADS is not set")
    if not (wanted.isdigit() and int(wanted) > 0):
        return warning("threads", f"OMP_NUM_THREADS is {wanted!r}, no number: {share} are taken", _SET.format(share))
    if int(wanted) < share:
        return warning(
            "threads",
            f"OMP_NUM_THREADS={wanted} leaves {share - int(wanted)} of {share} cores idle",
            _SET.format(share),
        )
    return ok("threads", f"{share} a rank; OMP_NUM_THREADS is {wanted}")


def processor_check() -> Check:
    """The processor, and whether the native decoder finds AVX2 on it."""
    name = processor().rpartition(", ")[0]
    flags = _cpu("flags", "Features").split()
    fast = [flag for flag in ("avx2", "avx512_bf16", "amx_bf16") if flag in flags]
    if is_available() and library().ims_resizer(0) == b"portable":
        return warning(
            "processor",
            f"{name}, without AVX2: images are resized by portable code, to the same pixels",
            "in a virtual machine choose a CPU type that hands AVX2 on, such as host",
        )
    return ok("processor", f"{name}{', with ' + ', '.join(fast) if fast else ''}")


def memory(limit: tuple[int, int] | None) -> Check:
    """Main memory; `limit` is what `memory_limit` says."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    total, free = (int(fields[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if limit is not None and limit[1] < free:
        free = limit[1]
        found = f"the cgroup allows {limit[0] / GIB:.1f} GiB, of which {free / GIB:.1f} are left; {found}"
    if free < _LITTLE_MEMORY:
        hint = "end other work or raise the limit (docker --memory); a smaller phases.*.micro_batch takes less"
        return warning("memory", found, hint)
    return ok("memory", found)


SHARED: Final = Path("/dev/shm")
_SHARED_NEEDED: Final = GIB  # what NCCL's guide has `docker run --shm-size` set; docker gives 64 MiB
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
        f"{folder}: {free / GIB:.1f} GiB free, writes {speed / _MIB:,.0f} MiB/s, a checkpoint of resnet50 in "
        f"{seconds:.1f} s"
    )
    if free < GIB:
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
    found = f"{folder}: {free / GIB:.2f} of {size / GIB:.2f} GiB are free"
    if free < _SHARED_NEEDED and gpus > 1:
        return warning(name, f"{found}, less than NCCL may take", hint)
    return ok(name, found)


def open_files(root: Root | None, soft: int, hard: int) -> Check:
    """The limits of open files against the shards that training keeps open: all of a split, of each variant."""
    name = "open files"
    found = f"at most {_count(soft)}, which this process may raise to {_count(hard)}"
    if root is None:
        return ok(name, found)
    shards = max(len(root.manifest(variant).splits["train"].shards) for variant in root.variants)
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


DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")  # of the kernel module
_NO_GPU: Final = (
    "see to CUDA_VISIBLE_DEVICES, to the container's GPUs (docker --gpus all), and whether nvidia-smi shows them; an "
    "old driver needs an update, or a torch built for an older CUDA"
)


def devices(driver_file: Path = DRIVER_FILE) -> list[Check]:
    """One check of the driver, which `driver_file` tells of, and one of each device."""
    import torch  # only here: doctor looks at the rest where torch cannot be imported, too

    from imagesprint.training.optimizer import best_precision

    driver = _driver_version(driver_file)
    if torch.cuda.is_available():
        checks = [ok("driver", f"NVIDIA {driver or 'of an unknown version'}, for torch's CUDA {torch.version.cuda}")]
        for number in range(torch.cuda.device_count()):
            about, precision = torch.cuda.get_device_properties(number), best_precision(torch.device("cuda", number))
            found = f"{about.name}, compute capability {about.major}.{about.minor}, {precision}"
            checks.append(_gpu(number, found, *torch.cuda.mem_get_info(number)))
        return checks
    cpu = ok("device", f"the CPU, in {best_precision(torch.device('cpu'))}")
    if driver is None:
        return [ok("driver", "no NVIDIA driver"), cpu]
    if torch.version.cuda is None:
        hint = "install a torch built for CUDA: pip install --force-reinstall torch, from the default index"
        return [warning("driver", f"NVIDIA {driver}, but torch {torch.__version__} is built without CUDA", hint), cpu]
    return [failure("driver", f"NVIDIA {driver}, but no GPU: {_why(torch.cuda.init)}", _NO_GPU), cpu]


def _gpu(number: int, found: str, free: int, total: int) -> Check:
    name, found = f"device {number}", f"{found}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < total / 2:
        hint = "nvidia-smi shows who; end them or choose another GPU"
        return warning(name, f"{found}: others are at work on it", hint)
    return ok(name, found)


def _why(initialise: Callable[[], None]) -> str:
    try:
        initialise()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "torch sees none"


def _driver_version(file: Path) -> str | None:
    """The kernel module's version; None where there is none."""
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError:
        return None
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), "of an unknown version")
