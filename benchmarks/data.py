"""The data path against its targets: `bench data` on the real photos, and raw pixels against Pillow on JPEGs.

    python benchmarks/data.py ../shared/data --json FILE

Prepares flowers-full as A (full) and as B (shorter side 320 pixels, quality 94: 63 kB, and quality 90), and flowers-160
as C and as raw pixels; then measures A and B at 224, C and raw at 128 pixels, with one thread and with two. Peers that
are not installed are left out. Exits 3 if a target is missed or could not be measured.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from loaders import PACKAGES, installed_loaders

from imagesprint.cli.output import table, to_json
from imagesprint.console import Console
from imagesprint.diagnosis.bench_data import ROUNDS, DataBench, bench_data, work_of
from imagesprint.diagnosis.contest import median_ratio, run_rounds
from imagesprint.diagnosis.data_programs import pillow, whole_loader
from imagesprint.files import write_text
from imagesprint.prepare.preparing import prepare

THREADS = 2
DATASETS = {  # variant, image size, and how it is prepared
    "A": ("full", 224, "flowers-full", {"val_fraction": 0.1}),
    "B": ("320", 224, "flowers-full", {"val_fraction": 0.1, "quality": 94}),
    "C": ("160", 128, "flowers-160", {}),
    "raw": ("160", 128, "flowers-160", {"image_format": "raw"}),
    "B at quality 90": ("320", 224, "flowers-full", {"val_fraction": 0.1}),
}
PEERS = {"pillow": 2.1, "tf.data": 1.35, "dali": 1.6, "ffcv": 1.6}  # whole loader, two threads
ONE_THREAD = {"A": 2.1, "B": 2.2, "C": 2.6}  # against Pillow
ENTROPY = {"A": (1.12, 1.55), "B": (1.22, 1.70), "C": (1.35, 1.80)}
RAW, RAW_OF_FFCV, OF_DECODER, PYTHON_MS = 7.0, 2.0, 0.95, 1.0

Row = tuple[str, str, float, float | None, bool]  # what, dataset, target, found, met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="the folder that holds flowers-full and flowers-160")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    args = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        for name, (variant, _, source, how) in DATASETS.items():
            root = Path(folder) / name
            prepare(args.photos / source, root, variants=(variant,), workers=1, console=Console(quiet=True), **how)
        begun = time.strftime("%Y-%m-%d %H:%M:%S")
        raw = raw_against_pillow(Path(folder), console)
        results = {}
        for name, (variant, size, _, _) in DATASETS.items():
            results[name] = bench_data(
                Path(folder) / name, variant, size, THREADS, console, installed_loaders(), PACKAGES
            )
    rows = judge(results, raw["speedup"])
    if args.json is not None:
        done = {
            "begun": begun,
            "load": os.getloadavg(),
            "results": {name: result.as_json() for name, result in results.items()},
            "raw_against_pillow": raw,
            "targets": rows,
        }
        write_text(args.json, to_json(done) + "\n")
    cells = [
        [what, name, target, "—" if found is None else round(found, 3), met] for what, name, target, found, met in rows
    ]
    print(table(["", "dataset", "target", "found", "met"], cells))
    return 0 if all(row[-1] for row in rows) else 3


def raw_against_pillow(folder: Path, console: Console) -> dict[str, float]:
    """One thread: our loader on raw pixels, and Pillow on the same photos as JPEGs."""
    raw = work_of(folder / "raw", "160", 128, 1)
    jpeg = work_of(folder / "C", "160", 128, 1)
    programs = {"raw": partial(whole_loader, raw), "pillow": partial(pillow, jpeg)}
    samples, _ = run_rounds(programs, (), ROUNDS, lambda name: console.live(f"raw against Pillow: {name}"))
    each = {
        name: [sample.seconds / work.images for sample in samples[name]]
        for name, work in (("raw", raw), ("pillow", jpeg))
    }
    rates = {f"{name}_images_per_second": 1 / statistics.median(taken) for name, taken in each.items()}
    return {"speedup": median_ratio(each["pillow"], each["raw"]), **rates}


def judge(results: Mapping[str, DataBench], raw_speedup: float) -> list[Row]:
    """Hold the figures against the targets."""
    rows: list[Row] = []

    def at_least(what: str, name: str, target: float, found: float | None) -> None:
        rows.append((what, name, target, found, found is not None and found >= target))

    def at_most(what: str, name: str, target: float, found: float) -> None:
        rows.append((what, name, target, found, found <= target))

    for name in ("A", "B", "C"):
        one, two = results[name].by_threads
        at_least("one thread, against pillow", name, ONE_THREAD[name], one.peers["pillow"].speedup)
        for peer, target in PEERS.items():
            found = two.peers.get(peer)
            at_least(f"two threads, against {peer}", name, target, found and found.speedup)
        for part, target in zip(("whole", "rows"), ENTROPY[name], strict=True):
            for own in ("decoder", "loader"):
                over = results[name].inside.entropy[f"{own}_over_{part}"]
                at_most(f"{own} ÷ entropy decoding, {part}", name, target, over)
        for entry in (one, two):
            what = f"loader ÷ decoder alone, threads {entry.threads}"
            at_least(what, name, OF_DECODER, entry.loader_over_decoder_alone)
    at_least("one thread, against pillow on C", "raw", RAW, raw_speedup)
    ffcv = results["raw"].by_threads[-1].peers.get("ffcv")
    at_least("two threads, against ffcv", "raw", RAW_OF_FFCV, ffcv and ffcv.speedup)
    for name in ("C", "raw"):  # whose batches are of 256
        at_most("Python, ms a batch of 256", name, PYTHON_MS, results[name].inside.python_milliseconds_per_batch)
    return rows


if __name__ == "__main__":
    sys.exit(main())
