"""All that needs a GPU, in nine minutes, from the source tree and without installing anything.

    python benchmarks/gpu_check.py                     # or: make gpu-check
    python benchmarks/gpu_check.py --device cpu        # the same with tiny sizes: a rehearsal

The parts, each a process of its own, come in the order of what they tell: versions and ceilings; the tests marked
`gpu`; steps of minutes104 at 224, 128 and 288 px with our own kernels, then at 224 px compiled without them, each with
its ten dearest kernels (and at 128 and 288 px as well, should that be the faster); evaluation in fp32, TF32 and bf16;
the loader at 224 px with a head of 1,000 classes; our kernels against PyTorch's operations, in all forms; losses over
60 steps; eager steps. Photos are made beside the first parts, with what those leave of the processors. After each part
a line is printed, its whole output goes into log.txt, and report.md and report.json are written anew, so that a call
that is cut off loses nothing else.

A part is begun where there is time left for most of what it is expected to take (EARLY), or for all where it says
nothing before its end, else it is left out, which the report says; it is cut off when it takes LATE times that and
SLACK seconds more than that, or when --minutes are over. A part that fails is reported, and the others go on. What
torch.compile and Triton made is packed beside the report, into caches.0.tar.gz and so on: --caches of the next call, on
another machine of the kind and the same source, spares it the compiling. Images are those of --data, by default
gpu-data/ where it is there, else generated.

Needs Python 3.11 or newer, torch, numpy, Pillow and scikit-learn; without git, pytest or a JPEG library it says what it
left out. Nothing is written into the tree but Python's bytecode, so it may be read-only. A native decoder that was
built elsewhere (IMAGESPRINT_STATIC_JPEG=1 python setup.py build_ext --inplace) is used where it loads. Exits 1 if a
part failed or was cut off, 3 if all ran and the losses do not agree, else 0.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu_check_machine import BENCHMARKS, PROJECT, Caches, Process, describe, held_gpu, make_ready
from gpu_check_report import headline, write_report

IMAGESPRINT = (sys.executable, "-m", "imagesprint")
NOT_MET, NO_TESTS = 3, 5  # exit codes: of imagesprint, and of pytest where none is selected
EARLY = 0.6  # of a part's expected seconds: it is begun where so many are left
LATE, SLACK = 1.7, 40.0  # it is cut off after so many times them, or so many more, whichever is later
RESERVE = 8.0  # seconds at the end: to stop a part, to write what it said, to pack the caches
CASES = ("tests/model/fused_norm_cases.py", "tests/model/fused_product_cases.py")


@dataclass(frozen=True)
class Plan:
    """What is run, enough for a GPU or as little as possible, and the seconds each part is expected to take there.

    docs/scaling.md says where the seconds come from.
    """

    recipe: str
    pixels: int  # of the steps in all variants, and of the loader
    others: str  # sizes in pixels, for our own kernels, or for the fastest variant
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
            "machine": 15, "tests": 65, "fused": 136, "compiled": 60, "others": 75, "evaluation": 14, "photos": 4,
            "loader": 42, "kernels": 42, "losses": 80, "eager": 28,
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
            "machine": 10, "tests": 25, "fused": 30, "compiled": 120, "others": 40, "evaluation": 20, "photos": 20,
            "loader": 60, "kernels": 60, "losses": 60, "eager": 30,
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A command, the seconds it is expected to take, and whether it is left out, because of what.

    It is not begun unless the share `early` of its seconds is left. `begun` is its process where it runs already.
    """

    name: str
    seconds: float
    words: Sequence[str | Path]
    missing: str = ""
    early: float = EARLY
    begun: Process | None = None

    @property
    def limit(self) -> float:
        """The seconds after which it is cut off."""
        return max(LATE * self.seconds, self.seconds + SLACK)


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
    parser.add_argument(
        "--caches", type=Path, nargs="+", default=[], metavar="FILE", help="caches.*.tar.gz of an earlier call"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=os.environ.get("OUT") or None,
        metavar="DIR",
        help="of the report; default: what the variable OUT names, else benchmarks/results/DATE-gpu-check-DEVICE",
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    clock = Clock(args.minutes)
    output = output_folder(args.output, f"{time.strftime('%Y-%m-%d')}-gpu-check-{args.device}")
    (output / "log.txt").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="imagesprint-") as scratch, ExitStack() as beside:
        if args.device == "cuda":
            beside.enter_context(held_gpu())
        folder, slow = make_ready(Path(scratch), args.caches)
        caches, about = Caches(folder, output), describe(args.device, args.minutes)
        photos = photos_part(PLANS[args.device], args.data, Path(scratch), slow)
        if photos.begun is not None:
            beside.callback(photos.begun.end)
        outcomes: list[Outcome] = []
        for part in parts(args.device, photos, Path(scratch), outcomes):
            outcome = run(part, clock.left, Path(scratch), output / "log.txt")
            outcomes.append(outcome)
            write_report(output, about, [vars(each) for each in outcomes])
            done = f"{clock.gone:4.0f} s  {outcome.name}: {outcome.status}, {outcome.seconds:.0f} s"
            print(done, headline(vars(outcome)), sep="  ", flush=True)
            try:
                caches.pack()
            except OSError as error:
                print(f"what was compiled is not kept: {error}", flush=True)
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


def photos_part(plan: Plan, data: Path | None, scratch: Path, slow: str) -> Part:
    """The part that makes photos, begun beside all others, unless there are images or it is said why not.

    The last of its words is where images are.
    """
    found = data or (PROJECT / "gpu-data" if (PROJECT / "gpu-data").is_dir() else None)
    words = [sys.executable, BENCHMARKS / "photos.py", *plan.photos, found or scratch / "root"]
    missing = slow or ("there are images" if found else "")
    begun = None if missing else Process(words, scratch, "photos")
    if begun is not None:
        begun.stand_back()
    return Part("photos", plan.seconds["photos"], words, missing, early=0.0, begun=begun)


def parts(device: str, photos: Part, scratch: Path, outcomes: Sequence[Outcome]) -> Iterator[Part]:
    """Yield the parts in order, each once the one before has its place in `outcomes`; those that read images are left
    out where there are none.
    """
    plan = PLANS[device]
    seconds, on = plan.seconds, ("--device", device)
    measure, steps = (sys.executable, BENCHMARKS / "gpu_measure.py"), ("--steps", str(plan.steps))
    only_gpu = "" if device == "cuda" else "its kernels need a GPU"

    def of_steps(name: str, variant: str, pixels: str, missing: str = "") -> Part:
        words = (*measure, "steps", plan.recipe, *on, "--variant", variant, "--pixels", pixels, *steps)
        return Part(f"steps at {pixels} px, {variant}", seconds[name], words, missing)

    yield Part("machine", seconds["machine"], (*measure, "machine", plan.recipe, *on))
    yield tests(seconds["tests"], scratch)
    yield of_steps("fused", "fused", f"{plan.pixels},{plan.others}", only_gpu)
    yield of_steps("compiled", "compiled", str(plan.pixels))
    best = fastest(outcomes)
    if best == "compiled":
        yield of_steps("others", "compiled", plan.others)
    yield Part("evaluation", seconds["evaluation"], (*measure, "evaluation", plan.recipe, *on, *steps))
    yield photos
    has_images = photos.missing == "there are images" or outcomes[-1].status == "done"
    imageless = "" if has_images else photos.missing or "there are no photos"
    flags = ("--data", photos.words[-1], *on)
    compilation = ("--compile", "off" if best == "eager" else "on", "--steps", str(plan.loader_steps))
    words = (*IMAGESPRINT, "bench", "train", recipe_of_one_size(plan, scratch), *flags, *compilation, "--json")
    yield Part("loader", seconds["loader"], words, imageless, early=1.0)
    yield kernels(seconds["kernels"], scratch, only_gpu)
    words = (sys.executable, BENCHMARKS / "losses.py", plan.recipe, *flags, "--steps", str(plan.loss_steps), "--json")
    yield Part("losses", seconds["losses"], words, imageless)
    yield of_steps("eager", "eager", str(plan.pixels))


def tests(seconds: float, scratch: Path) -> Part:
    """The tests marked `gpu`, but for those of our kernels: of their files alone, since others import what is not
    installed everywhere.
    """
    files = [path for path in sorted((PROJECT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    words = pytest_words(scratch, "--durations", "8", *(path for path in files if path.name != "test_fused_norm.py"))
    return Part("tests", seconds, (*words, "-m", "gpu"), "" if is_there("pytest") else "pytest is not installed")


def kernels(seconds: float, scratch: Path, missing: str) -> Part:
    """Our kernels against PyTorch's operations: compiling them takes the most, so in eight processes."""
    words = pytest_words(scratch, *(("-n", "8") if is_there("xdist") else ()), *(PROJECT / case for case in CASES))
    return Part("kernels", seconds, words, missing or ("" if is_there("pytest") else "pytest is not installed"))


def pytest_words(scratch: Path, *more: str | Path) -> tuple[str | Path, ...]:
    flags = ("-vv", "-rsfE", "--tb=short", "-p", "no:cacheprovider", "--basetemp", scratch / "pytest")
    return sys.executable, "-m", "pytest", *flags, *more


def is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def fastest(outcomes: Sequence[Outcome]) -> str:
    """The variant of the most images a second; eager where neither of the others was measured."""
    results = [outcome.result for outcome in outcomes if outcome.result and outcome.result["bench"] == "steps"]
    speeds = {row["images_per_second"]: result["variant"] for result in results for row in result["phases"][:1]}
    return speeds[max(speeds)] if speeds else "eager"


def recipe_of_one_size(plan: Plan, scratch: Path) -> Path:
    """Write the recipe with its first phase of `plan.pixels` alone, for `bench train`."""
    from imagesprint.recipes.library import load_recipe
    from imagesprint.recipes.serialization import to_toml

    recipe = load_recipe(plan.recipe)
    phase = next(phase for phase in recipe.phases if phase.image_size == plan.pixels)
    path = scratch / f"{plan.recipe}.toml"
    path.write_text(to_toml(replace(recipe, phases=(replace(phase, epochs=(0, 1)),))))
    return path


def run(part: Part, left: float, scratch: Path, log: Path) -> Outcome:
    """Run a part, if most of its time is `left`; whatever happens is an outcome. All that it said goes into `log`."""
    words = [str(word) for word in part.words]
    command = " ".join(["python", *words[1:]]).replace(f"{PROJECT}/", "").replace(f"{scratch}/", "")
    missing = part.missing
    if left < part.early * part.seconds:
        missing = missing or f"it takes about {part.seconds:.0f} s, and {max(0, left):.0f} s are left"
    if missing:
        return Outcome(part.name, "left out", 0.0, command, missing)
    start = time.monotonic()
    process = part.begun or Process(words, scratch)
    code = process.finish(min(part.limit, max(left, 0.0)))
    seconds = time.monotonic() - start
    printed, complained = process.said()
    if code is None:
        complained += f"\ncut off after {seconds:.0f} s\n"
    with suppress(OSError), log.open("a") as file:
        file.write(f"==== {part.name}: {command}\n{printed}\n{complained}\n")
    if "pytest" in words:
        ran = re.search(r"\d+ passed", printed) is not None
        status = {0: "done" if ran else "left out", NO_TESTS: "left out", None: "cut off"}.get(code, "failed")
        return Outcome(part.name, status, seconds, command, printed[-6000:] + complained[-1000:])
    status = {0: "done", NOT_MET: "not met", None: "cut off"}.get(code, "failed")
    result = last_result(printed)
    said = "" if status in ("done", "not met") else ("" if result else printed[-2000:]) + complained[-2000:]
    return Outcome(part.name, status, seconds, command, said, result)


def last_result(printed: str) -> Any:
    """Return the last line that is the whole result of a bench, None where there is none."""
    for line in reversed(printed.splitlines()):
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and "bench" in value:
                return value
    return None


if __name__ == "__main__":
    sys.exit(main())
