"""What gpu_check.py does with the machine that it runs on: the environment of its parts, their processes, caches."""

import hashlib
import importlib.util
import io
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
BENCHMARKS = PROJECT / "benchmarks"
ENDING = 5.0  # seconds for a process that was killed: in the GPU's driver it may take for ever
# Steps on the way to a kernel's machine code, which alone is loaded: 90% of the bytes
NOT_PACKED = {".ttir", ".ttgir", ".llir", ".ptx", ".source"}
PIECE_BYTES = 15 * 2**20  # of packed caches: a machine may give back no larger files


def make_ready(scratch: Path, packed: Sequence[Path]) -> tuple[Path, str]:
    """Have this process and its children find imagesprint, stand-ins and the native decoder, and write elsewhere.

    Returns the folder of the compilers' caches, the same in each call, since what they keep may name it; and why
    images would be read too slowly here, if so.
    """
    caches = Path(tempfile.gettempdir()) / f"imagesprint-gpu-check-{os.getuid()}"
    caches.mkdir(mode=0o700, exist_ok=True)
    for piece in packed:
        with tarfile.open(piece, ignore_zeros=True) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python has it from 3.11.4 on
            archive.extractall(caches)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(caches / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(caches / "triton")
    os.environ["TORCHINDUCTOR_BUNDLE_TRITON_INTO_FX_GRAPH_CACHE"] = "0"  # else each kernel is kept twice
    os.environ["PYTHONUNBUFFERED"] = "1"
    stand_ins = [] if importlib.util.find_spec("google_crc32c") else [str(BENCHMARKS / "stand_ins")]
    inherited = [folder for folder in (os.environ.get("PYTHONPATH"),) if folder]
    use_source(PROJECT / "src", *stand_ins, *inherited)
    probe = "import sys; from imagesprint.images.native import is_available; sys.exit(not is_available())"
    is_native = subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    if not is_native and build_decoder(scratch):
        use_source(scratch / "built", *stand_ins, *inherited)
        is_native = subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    slow = (
        "without google-crc32c and the native decoder each image's checksum takes 6 ms: build it where libjpeg-turbo "
        "is (IMAGESPRINT_STATIC_JPEG=1 python setup.py build_ext --inplace), and bring the .so along"
    )
    return caches, slow if stand_ins and not is_native else ""


def use_source(*folders: str | Path) -> None:
    """Look for modules in `folders`, here and in children."""
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    sys.path.insert(0, str(folders[0]))


def build_decoder(scratch: Path) -> bool:
    """Build the native decoder into a copy of the source, scratch/built, for the tree may be read-only; else Pillow
    decodes.
    """
    shutil.copytree(PROJECT / "src", scratch / "built", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    words = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", scratch / "built", "--build-temp", scratch]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, check=False)
    return done.returncode == 0 and any((scratch / "built/imagesprint/images").glob("*.so"))


def describe(device: str, minutes: float) -> dict[str, Any]:
    """Return what the report is about: when, which source, and what is missing."""
    try:
        words = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        commit = ""
    source = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((PROJECT / "src").rglob("*.py"))))
    wanted = ("google_crc32c", "pytest", "sklearn", "tensorboard", "triton", "xdist")
    return {
        "begun": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "device": device,
        "minutes": minutes,
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit or "unknown",
        "source": source.hexdigest()[:16],  # tells which commit it was where there is no git
        "missing": [name for name in wanted if importlib.util.find_spec(name) is None],
    }


class Process:
    """A command that runs in a group of its own, with its output in files of `folder`: what it started ends with it."""

    def __init__(self, words: Sequence[str | Path], folder: Path, name: str = "part") -> None:
        self._files = [folder / f"{name}.{stream}" for stream in ("stdout", "stderr")]
        with open(self._files[0], "wb") as out, open(self._files[1], "wb") as err:
            self._process = subprocess.Popen(words, cwd=PROJECT, stdout=out, stderr=err, start_new_session=True)
        self._is_over = False

    def stand_back(self) -> None:
        """Let it, and what it starts from now on, have what others leave of the processors."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)

    def finish(self, limit: float) -> int | None:
        """Return its exit code, None where it takes more than `limit` seconds from now; then it is over."""
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.end()

    def end(self) -> None:
        """Kill it, if it was not seen to end."""
        if self._is_over:
            return
        self._is_over = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING)

    def said(self) -> tuple[str, str]:
        """What it printed and complained of so far."""
        printed, complained = (file.read_text(errors="replace") for file in self._files)
        return printed, complained


# A context keeps the GPU awake: else the driver may let it go with each part's process, and begin anew. 20 asks for the
# compute mode, and 0 is the one in which others may have contexts beside.
_HOLD = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, mode, context = ctypes.c_int(), ctypes.c_int(-1), ctypes.c_void_p()
if not cuda.cuInit(0) and not cuda.cuDeviceGet(ctypes.byref(device), 0):
    cuda.cuDeviceGetAttribute(ctypes.byref(mode), 20, device)
if mode.value == 0:
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
sys.stdin.read()
"""


@contextmanager
def held_gpu() -> Iterator[None]:
    """Inside, a small process has a context on the first GPU, if there is one; it ends with this one in any case."""
    words = (sys.executable, "-c", _HOLD)
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=ENDING)


class Caches:
    """Packs what a folder of caches has into pieces `caches.0.tar.gz` and so on, each whole by itself at any time."""

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder, self._output = folder, output
        self._packed: dict[Path, int] = {}  # to when it was changed last
        self._piece, self._number = bytearray(), 0

    def pack(self) -> None:
        """Add what is new since the last time."""
        added = 0
        for path in sorted(self._folder.rglob("*")):
            changed = path.stat().st_mtime_ns if path.is_file() else 0
            if path.suffix in NOT_PACKED or changed == self._packed.get(path, 0):
                continue
            # An archive for each file: behind one another they are one, and a piece can end anywhere.
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=6) as packing:
                packing.add(path, path.relative_to(self._folder))
            if self._piece and len(self._piece) + archive.tell() > PIECE_BYTES:
                self._write()
                self._piece, self._number = bytearray(), self._number + 1
            self._piece += archive.getvalue()
            self._packed[path] = changed
            added += 1
        if added:
            self._write()

    def _write(self) -> None:
        partial = self._output / "caches.partial"
        partial.write_bytes(self._piece)
        partial.replace(self._output / f"caches.{self._number}.tar.gz")
