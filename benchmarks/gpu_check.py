"""All that needs a GPU, in one call, from the source tree and without installing anything.

    python benchmarks/gpu_check.py                     # or: make gpu-check
    python benchmarks/gpu_check.py --device cpu        # the same with tiny sizes: a rehearsal

Runs the tests marked `gpu`, `bench step` and `bench train` on minutes104 (128, 224 and 288 px), the variants of its
step at 224 px, and losses.py, each in a process of its own and with a time limit, and writes report.md and report.json,
after each part anew. A part that fails is reported, and the others go on. Images are those of --data, by default
gpu-data/ where it is there, else generated.

Needs Python 3.11 or newer, torch, numpy, Pillow and scikit-learn; without pytest, matplotlib or a JPEG library it says
what it left out. Exits 1 if a part failed, 3 if all ran and the losses do not agree, else 0.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_check_report import write_report

PROJECT = Path(__file__).resolve().parents[1]
STAND_INS = PROJECT / "benchmarks/stand_ins"
IMAGESPRINT = (sys.executable, "-m", "imagesprint")
MODES = {"compiled": ("--compile", "on"), "eager": ("--compile", "off")}  # flags of each way to run the step
NOT_MET, NO_TESTS = 3, 5  # exit codes: of imagesprint, and of pytest where none is selected


@dataclass(frozen=True)
class Sizes:
    """What is run: enough for a GPU, or as little as possible."""

    recipe: str
    steps: int  # of bench step
    train_steps: int  # of bench train
    variants_at: int  # pixels
    loss_steps: int
    images: int  # generated
    height: int
    variants: str
    seconds: int  # that a part may take


SIZES = {
    "cuda": Sizes("minutes104", 10, 5, 224, 200, 6144, 375, "320,160", 300),
    "cpu": Sizes("demo", 1, 1, 16, 4, 80, 48, "full,16", 300),
}


@dataclass(frozen=True)
class Part:
    """A command, and whether it is left out, because of what."""

    name: str
    words: Sequence[str | Path]
    missing: str = ""


@dataclass
class Outcome:
    """How a part ended: status is "done", "failed", "not met" or "left out"; `result` is the JSON that it printed."""

    name: str
    status: str
    seconds: float
    command: str
    said: str = ""
    result: Any = field(default=None, repr=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="prepared images instead of generated ones")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: benchmarks/results/DATE-gpu-check-DEVICE")
    args = parser.parse_args()
    output = args.output or PROJECT / f"benchmarks/results/{time.strftime('%Y-%m-%d')}-gpu-check-{args.device}"
    output.mkdir(parents=True, exist_ok=True)
    make_ready()
    about, outcomes = describe(args.device), []
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts(args.device, args.data, Path(scratch) / "root", output):
            print(f"{part.name} ...", flush=True)
            outcomes.append(run(part, SIZES[args.device].seconds))
            print(f"{part.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", flush=True)
            write_report(output, about, [vars(outcome) for outcome in outcomes])
    print((output / "report.md").read_text())
    statuses = {outcome.status for outcome in outcomes}
    return 1 if "failed" in statuses else NOT_MET if "not met" in statuses else 0


def make_ready() -> None:
    """Have this process and its children find imagesprint, stand-ins and the native decoder."""
    found = [str(PROJECT / "src")]
    if importlib.util.find_spec("google_crc32c") is None:
        found.append(str(STAND_INS))
    os.environ["PYTHONPATH"] = os.pathsep.join([*found, *filter(None, [os.environ.get("PYTHONPATH")])])
    probe = "import sys; from imagesprint.images.native import is_available; sys.exit(not is_available())"
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode != 0:
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=PROJECT, capture_output=True, check=False)  # where that fails, Pillow decodes


def describe(device: str) -> dict[str, Any]:
    """Return what the report is about: machine, versions, decoder, commit, and what is missing."""
    code = (
        "import json, torch; from imagesprint.images.decoders import describe_decoder;"
        "from imagesprint.diagnosis.machine import processor, versions;"
        "gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None;"
        "names = ('torch', 'triton', 'numpy', 'pillow', 'pytest');"
        "print(json.dumps(dict(gpu=gpu, processor=processor(), decoder=describe_decoder(), versions=versions(*names))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True)
    wanted = ("google_crc32c", "matplotlib", "pytest", "sklearn", "tensorboard")
    return {
        "begun": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "device": device,
        "system": platform.platform(),
        "commit": commit.stdout.strip() or "unknown",
        "missing": [name for name in wanted if importlib.util.find_spec(name) is None],
        **(json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-500:]}),
    }


def parts(device: str, data: Path | None, root: Path, output: Path) -> Iterator[Part]:
    """Yield the parts in order; the quickest to tell something first."""
    sizes, here = SIZES[device], PROJECT / "benchmarks"
    missing = "" if importlib.util.find_spec("pytest") else "pytest is not installed"
    yield Part(
        "tests", (sys.executable, "-m", "pytest", "tests", "-m", "gpu", "-rs", "-p", "no:cacheprovider"), missing
    )
    for mode, flags in MODES.items():
        words = (*IMAGESPRINT, "bench", "step", sizes.recipe, "--device", device, "--steps", str(sizes.steps), *flags)
        yield Part(f"bench step, {mode}", (*words, "--num-train", "1281167", "--json", *plot(output, f"step-{mode}")))
    words = (*IMAGESPRINT, "bench", "step", sizes.recipe, "--device", device, "--steps", str(sizes.steps))
    yield Part("bench step, variants", (*words, "--variants", str(sizes.variants_at), "--json"))
    found = data or (PROJECT / "gpu-data" if (PROJECT / "gpu-data").is_dir() else None)
    if found is None:
        words = (sys.executable, here / "photos.py", root, "--images", str(sizes.images), "--height", str(sizes.height))
        yield Part("generate images", (*words, "--variants", sizes.variants))
    root = found or root
    for mode, flags in MODES.items():
        words = (*IMAGESPRINT, "bench", "train", sizes.recipe, "--data", root, "--device", device, *flags)
        steps = ("--steps", str(sizes.train_steps))
        yield Part(f"bench train, {mode}", (*words, *steps, "--json", *plot(output, f"train-{mode}")))
    words = (sys.executable, here / "losses.py", sizes.recipe, "--data", root, "--device", device)
    yield Part("losses", (*words, "--steps", str(sizes.loss_steps), "--json"))


def plot(output: Path, name: str) -> tuple[str | Path, ...]:
    """Return the flags that draw a bench's result, if it can be drawn here."""
    return ("--plot", output / f"{name}.png") if importlib.util.find_spec("matplotlib") else ()


def run(part: Part, limit: float) -> Outcome:
    """Run a part for at most `limit` seconds; whatever happens is an outcome."""
    words = [str(word) for word in part.words]
    command = " ".join(["python", *words[1:]]).replace(f"{PROJECT}/", "")
    if part.missing:
        return Outcome(part.name, "left out", 0.0, command, part.missing)
    start = time.monotonic()
    try:
        done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(part.name, "failed", time.monotonic() - start, command, f"it took more than {limit:.0f} s")
    seconds = time.monotonic() - start
    if part.name == "tests":
        ran = re.search(r"\d+ passed", done.stdout) is not None
        status = {0: "done" if ran else "left out", NO_TESTS: "left out"}.get(done.returncode, "failed")
        return Outcome(part.name, status, seconds, command, done.stdout[-3000:])
    status = {0: "done", NOT_MET: "not met"}.get(done.returncode, "failed")
    if status == "failed":
        return Outcome(part.name, status, seconds, command, (done.stdout + done.stderr)[-2000:])
    return Outcome(part.name, status, seconds, command, result=json.loads(done.stdout) if done.stdout else None)


if __name__ == "__main__":
    sys.exit(main())
