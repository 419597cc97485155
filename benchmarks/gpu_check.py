"""All that needs a GPU, in nine minutes, from the source tree and without installing anything.

    python benchmarks/gpu_check.py                     # or: make gpu-check
    python benchmarks/gpu_check.py --device cpu        # the same with tiny sizes: a rehearsal

The parts, each a process of its own, come in the order of what they tell: versions and ceilings; the tests marked
`gpu`; steps of minutes104 at 224 px eager, fused and compiled, each with its ten dearest kernels; 128 and 288 px in the
fastest of the three; the loader at 224 px with a head of 1,000 classes; evaluation in fp32, TF32 and bf16; losses over
60 steps. After each a line is printed, and report.md and report.json are written anew, so that a call that is cut off
loses nothing else.

A part is begun where there is time left for most of what it is expected to take (EARLY), else it is left out, which the
report says; it is cut off at LATE times that, or when --minutes are over. A part that fails is reported, and the others
go on. What torch.compile and Triton made is packed into caches.tar.gz beside the report: --caches of the next call, on
another machine of the kind and the same source, spares it the compiling. Images are those of --data, by default
gpu-data/ where it is there, else generated.

Needs Python 3.11 or newer, torch, numpy, Pillow and scikit-learn; without git, pytest or a JPEG library it says what it
left out. Nothing is written into the tree but Python's bytecode, so it may be read-only. A native decoder that was
built elsewhere (IMAGESPRINT_STATIC_JPEG=1 python setup.py build_ext --inplace) is used where it loads. Exits 1 if a
part failed or was cut off, 3 if all ran and the losses do not agree, else 0.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu_check_report import headline, write_report

PROJECT = Path(__file__).resolve().parents[1]
BENCHMARKS = PROJECT / "benchmarks"
IMAGESPRINT = (sys.executable, "-m", "imagesprint")
VARIANTS = ("eager", "fused", "compiled")  # those of `bench step --variants`, in the order in which they are measured
NOT_MET, NO_TESTS = 3, 5  # exit codes: of imagesprint, and of pytest where none is selected
EARLY, LATE = 0.6, 1.7  # of a part's expected seconds: it is begun where so many are left, and cut off after so many
RESERVE = 8.0  # seconds at the end: to stop a part, to write what it said, to pack the caches
# Steps on the way to a kernel's machine code, which alone is loaded: 90% of the bytes
NOT_PACKED = {".ttir", ".ttgir", ".llir", ".ptx", ".source"}


@dataclass(frozen=True)
class Plan:
    """What is run, enough for a GPU or as little as possible, and the seconds each part is expected to take there.

    docs/scaling.md says where the seconds come from.
    """

    recipe: str
    pixels: int  # of the steps that are told in full, and of the loader
    others: str  # sizes in pixels, for the fastest variant
    steps: int
    loader_steps: int
    loss_steps: int
    photos: Sequence[str]  # flags of photos.py
    seconds: dict[str, float]


PLANS = {
    "cuda": Plan(
        recipe="minutes104",
        pixels=224,
        others="128,288",
        steps=8,
        loader_steps=5,
        loss_steps=60,
        photos=("--images", "3000", "--height", "375", "--variants", "320", "--classes", "1000", "--shards", "32"),
        seconds={
            "machine": 12, "tests": 75, "eager": 27, "fused": 63, "compiled": 63, "others": 95, "photos": 16,
            "loader": 38, "evaluation": 14, "losses": 75,
        },
    ),
    "cpu": Plan(
        recipe="demo",
        pixels=16,
        others="24",
        steps=1,
        loader_steps=1,
        loss_steps=4,
        photos=("--images", "80", "--height", "48", "--variants", "full,16"),
        seconds={
            "machine": 10, "tests": 25, "eager": 30, "fused": 30, "compiled": 120, "others": 40, "photos": 20,
            "loader": 60, "evaluation": 20, "losses": 60,
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A command, the seconds it is expected to take, and whether it is left out, because of what."""

    name: str
    seconds: float
    words: Sequence[str | Path]
    missing: str = ""


@dataclass
class Outcome:
    """How a part ended: status is "done", "failed", "cut off", "not met" or "left out"; `result` is the last JSON that
    it printed.
    """

    name: str
    status: str
    seconds: float
    command: str
    said: str = ""
    result: Any = field(default=None, repr=False)


class Clock:
    """Seconds since it was made, and what is left of all that there are."""

    def __init__(self, minutes: float) -> None:
        self.total = 60 * minutes
        self._start = time.monotonic()

    @property
    def gone(self) -> float:
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        return self.total - RESERVE - self.gone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="that all may take; default 9")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="prepared images instead of generated ones")
    parser.add_argument("--caches", type=Path, metavar="FILE", help="caches.tar.gz of an earlier call")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="of the report; default: benchmarks/results/DATE-gpu-check-DEVICE"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    clock = Clock(args.minutes)
    output = output_folder(args.output, f"{time.strftime('%Y-%m-%d')}-gpu-check-{args.device}")
    with tempfile.TemporaryDirectory(prefix="imagesprint-") as scratch:
        caches, slow = make_ready(Path(scratch), args.caches)
        about = describe(args.device, args.minutes)
        outcomes: list[Outcome] = []
        for part in parts(args.device, args.data, Path(scratch), slow, outcomes):
            outcome = run(part, clock.left, Path(scratch))
            outcomes.append(outcome)
            write_report(output, about, [vars(each) for each in outcomes])
            done = f"{clock.gone:4.0f} s  {outcome.name}: {outcome.status}, {outcome.seconds:.0f} s"
            print(done, headline(vars(outcome)), sep="  ", flush=True)
            pack(caches, output / "caches.tar.gz")
    print((output / "report.md").read_text())
    statuses = {outcome.status for outcome in outcomes}
    return 1 if statuses & {"failed", "cut off"} else NOT_MET if "not met" in statuses else 0


def output_folder(given: Path | None, name: str) -> Path:
    """Make the folder for the report: where the tree is read-only, it is one of that name for temporary files."""
    folder = (given or BENCHMARKS / "results" / name).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        if given is not None:
            raise
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(exist_ok=True)
        print(f"{BENCHMARKS} cannot be written to: the report goes to {folder}")
    return folder


def make_ready(scratch: Path, packed: Path | None) -> tuple[Path, str]:
    """Have this process and its children find imagesprint, stand-ins and the native decoder, and write elsewhere.

    Returns the folder of the compilers' caches, the same in each call, since what they keep may name it; and why
    images would be read too slowly here, if so.
    """
    caches = Path(tempfile.gettempdir()) / f"imagesprint-gpu-check-{os.getuid()}"
    caches.mkdir(mode=0o700, exist_ok=True)
    if packed is not None:
        with tarfile.open(packed) as archive:
            archive.extractall(caches, filter="data")
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
    slow = "without google-crc32c and the native decoder each image's checksum takes 6 ms"
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
    wanted = ("google_crc32c", "pytest", "sklearn", "tensorboard", "triton")
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


def parts(device: str, data: Path | None, scratch: Path, imageless: str, outcomes: Sequence[Outcome]) -> Iterator[Part]:
    """Yield the parts in order, each once the one before has its place in `outcomes`; those that read images are left
    out where it is said why.
    """
    plan = PLANS[device]
    seconds, on = plan.seconds, ("--device", device)
    measure, steps = (sys.executable, BENCHMARKS / "gpu_measure.py"), ("--steps", str(plan.steps))
    yield Part("machine", seconds["machine"], (*measure, "machine", plan.recipe, *on))
    yield tests(seconds["tests"], scratch)
    fused = "" if device == "cuda" else "its kernels need a GPU"
    for variant in VARIANTS:
        words = (*measure, "steps", plan.recipe, *on, "--variant", variant, "--pixels", str(plan.pixels), *steps)
        yield Part(f"steps, {variant}", seconds[variant], words, fused if variant == "fused" else "")
    best = fastest(outcomes)
    words = (*measure, "steps", plan.recipe, *on, "--variant", best, "--pixels", plan.others, *steps)
    yield Part(f"steps at {plan.others} px, {best}", seconds["others"], words)
    found = data or (PROJECT / "gpu-data" if (PROJECT / "gpu-data").is_dir() else None)
    if found is None:
        words = (sys.executable, BENCHMARKS / "photos.py", scratch / "root", *plan.photos)
        yield Part("photos", seconds["photos"], words, imageless)
        if outcomes[-1].status != "done":
            imageless = imageless or "there are no photos"
    root = found or scratch / "root"
    flags = ("--data", root, *on, "--compile", "off" if best == "eager" else "on", "--steps", str(plan.loader_steps))
    recipe = recipe_of_one_size(plan, scratch)
    yield Part("loader", seconds["loader"], (*IMAGESPRINT, "bench", "train", recipe, *flags, "--json"), imageless)
    yield Part("evaluation", seconds["evaluation"], (*measure, "evaluation", plan.recipe, *on, *steps))
    words = (sys.executable, BENCHMARKS / "losses.py", plan.recipe, "--data", root, *on)
    yield Part("losses", seconds["losses"], (*words, "--steps", str(plan.loss_steps), "--json"), imageless)


def tests(seconds: float, scratch: Path) -> Part:
    """The tests marked `gpu`: of their files alone, since others import what is not installed everywhere."""
    files = [path for path in sorted((PROJECT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    flags = ("-m", "gpu", "-vv", "-rs", "--durations", "8", "-p", "no:cacheprovider", "--basetemp", scratch / "pytest")
    missing = "" if importlib.util.find_spec("pytest") else "pytest is not installed"
    return Part("tests", seconds, (sys.executable, "-m", "pytest", *flags, *files), missing)


def fastest(outcomes: Sequence[Outcome]) -> str:
    """The variant of the most images a second; compiled where none was measured."""
    results = [outcome.result for outcome in outcomes if outcome.result and outcome.result["bench"] == "steps"]
    speeds = {result["phases"][0]["images_per_second"]: result["variant"] for result in results}
    return speeds[max(speeds)] if speeds else "compiled"


def recipe_of_one_size(plan: Plan, scratch: Path) -> Path:
    """Write the recipe with its first phase of `plan.pixels` alone, for `bench train`."""
    from imagesprint.recipes.library import load_recipe
    from imagesprint.recipes.serialization import to_toml

    recipe = load_recipe(plan.recipe)
    phase = next(phase for phase in recipe.phases if phase.image_size == plan.pixels)
    path = scratch / f"{plan.recipe}.toml"
    path.write_text(to_toml(replace(recipe, phases=(replace(phase, epochs=(0, 1)),))))
    return path


def run(part: Part, left: float, scratch: Path) -> Outcome:
    """Run a part, if most of its time is `left`; whatever happens is an outcome."""
    words = [str(word) for word in part.words]
    command = " ".join(["python", *words[1:]]).replace(f"{PROJECT}/", "").replace(f"{scratch}/", "")
    missing = part.missing
    if left < EARLY * part.seconds:
        missing = missing or f"it takes about {part.seconds:.0f} s, and {max(0, left):.0f} s are left"
    if missing:
        return Outcome(part.name, "left out", 0.0, command, missing)
    start, limit = time.monotonic(), min(LATE * part.seconds, left)
    code = run_until(words, limit, scratch)
    seconds = time.monotonic() - start
    printed, complained = ((scratch / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    if code is None:
        complained += f"\ncut off after {seconds:.0f} s\n"
    if part.name == "tests":
        ran = re.search(r"\d+ passed", printed) is not None
        status = {0: "done" if ran else "left out", NO_TESTS: "left out", None: "cut off"}.get(code, "failed")
        return Outcome(part.name, status, seconds, command, printed[-4000:] + complained[-1000:])
    status = {0: "done", NOT_MET: "not met", None: "cut off"}.get(code, "failed")
    result = last_result(printed)
    said = "" if status in ("done", "not met") else ("" if result else printed[-2000:]) + complained[-2000:]
    return Outcome(part.name, status, seconds, command, said, result)


def run_until(words: Sequence[str], limit: float, scratch: Path) -> int | None:
    """Run `words` with their output in files of `scratch`; the exit code, None where they took more than `limit`
    seconds. What they started ends with them.
    """
    with open(scratch / "stdout", "wb") as out, open(scratch / "stderr", "wb") as err:
        process = subprocess.Popen(words, cwd=PROJECT, stdout=out, stderr=err, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_result(printed: str) -> Any:
    """Return the last line that is the whole result of a bench, None where there is none."""
    for line in reversed(printed.splitlines()):
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and "bench" in value:
                return value
    return None


def pack(folder: Path, archive: Path) -> None:
    """Pack what a folder of caches has, unless nothing in it is newer than the archive."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in NOT_PACKED]
    newest = max((path.stat().st_mtime for path in files), default=0.0)
    if (archive.exists() and newest < archive.stat().st_mtime) or not files:
        return
    partial = archive.with_name("caches.partial")
    with tarfile.open(partial, "w:gz", compresslevel=6) as packed:
        for path in files:
            packed.add(path, path.relative_to(folder))
    partial.replace(archive)


if __name__ == "__main__":
    sys.exit(main())
