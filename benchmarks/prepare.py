"""The CPU time of `imagesprint prepare` against that of decoding and encoding alone, alternating in one run.

    python benchmarks/prepare.py [--photos DIR] [--repeats 5] [--json]

Prepares 2,000 photos of 500 × 375 pixels and 110 kB (distinct crops of scikit-learn's two photos), or those of DIR, a
folder of class folders, into full,320,160 with two workers. The yardstick are two processes that decode every photo
and encode it at 320 and at 160 pixels with the same Pillow and the same settings: of pixels that were shrunk outside of
the timing, and once more with the shrinking counted. All times are of whole processes, the start of Python included:
three of them for prepare, two for the yardstick. Exits 3 if prepare takes more than 1.25 times decoding and encoding
alone.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

NUM_PHOTOS = 2000
SIZE = (500, 375)
QUALITY = 98  # 110 kB on average, as in ImageNet
TARGET = 1.25
IMAGENET_IMAGES = 1_281_167 + 50_000
CORES = (8, 32, 64)

YARDSTICK = """
import sys, time
from pathlib import Path
from imagesprint.images.coding import encode_jpeg, open_image, shrink
from imagesprint.images.decoding import to_rgb

files = [Path(line) for line in sys.stdin.read().splitlines()]
with_shrinking = sys.argv[1] == "shrink"
seconds = time.process_time()  # the start of Python
for start in range(0, len(files), 50):
    data = [file.read_bytes() for file in files[start : start + 50]]
    images = [to_rgb(open_image(each)) for each in data]
    small = [[shrink(image, side) for side in (320, 160)] for image in images]
    begun = time.process_time()
    for each, sizes in zip(data, small):
        image = to_rgb(open_image(each))
        for pixels in [shrink(image, side) for side in (320, 160)] if with_shrinking else sizes:
            encode_jpeg(pixels, 90)
    seconds += time.process_time() - begun
print(seconds)
"""


def write_photos(folder: Path) -> None:
    """Write the photos as FOLDER/CLASS/NUMBER.jpg, no two alike."""
    generator = np.random.default_rng(0)
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        rows, columns = photo.shape[0] - SIZE[1], photo.shape[1] - SIZE[0]
        for number, place in enumerate(generator.choice(rows * columns, NUM_PHOTOS // 2, replace=False).tolist()):
            top, left = divmod(place, columns)
            crop = photo[top : top + SIZE[1], left : left + SIZE[0]]
            Image.fromarray(crop).save(folder / name / f"{number:04d}.jpg", quality=QUALITY)


def measure_yardstick(files: Sequence[Path], mode: str) -> float:
    """Return the CPU seconds of two processes that share the files."""
    command = [sys.executable, "-c", YARDSTICK, mode]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as prepare has it
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for number, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write("".join(f"{file}\n" for file in files[number::2]))
        process.stdin.close()
    total = 0.0
    for process in processes:
        assert process.stdout is not None
        total += float(process.stdout.read())
        process.wait()
    return total


def measure_prepare(source: Path, root: Path) -> float:
    """Return the CPU seconds of the command and all its processes."""
    flags = ["--variants", "full,320,160", "--workers", "2", "--val-fraction", "0.05", "--quiet"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "imagesprint", "prepare", str(source), str(root), *flags],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(root)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(source: Path, scratch: Path, repeats: int) -> dict[str, object]:
    """Return medians, their ratios and the projection for ImageNet."""
    files = sorted(path for path in source.glob("*/*") if path.is_file())
    runs = [
        {
            "decode_encode": measure_yardstick(files, "encode"),
            "prepare": measure_prepare(source, scratch / "root"),
            "decode_shrink_encode": measure_yardstick(files, "shrink"),
        }
        for _ in range(repeats)
    ]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    each = medians["prepare"] / len(files)
    ratios = [run["prepare"] / run["decode_encode"] for run in runs]
    return {
        "bench": "prepare",
        "device": f"{_processor()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("imagesprint", "pillow", "numpy")},
        "photos": len(files),
        "mean_bytes": sum(path.stat().st_size for path in files) / len(files),
        "runs": runs,
        "cpu_seconds": medians,
        "cpu_ms_per_image": 1000 * each,
        "ratio": statistics.median(ratios),
        "ratio_with_shrinking": medians["prepare"] / medians["decode_shrink_encode"],
        "target": TARGET,
        "ok": statistics.median(ratios) <= TARGET,
        "imagenet_hours": {str(cores): IMAGENET_IMAGES * each / cores / 3600 for cores in CORES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source = args.photos or scratch / "photos"
        if args.photos is None:
            write_photos(source)
        result = compare(source, scratch, args.repeats)
    print(json.dumps(result) if args.json else to_text(result))
    return 0 if result["ok"] else 3


def to_text(result: dict[str, object]) -> str:
    """Return the result for people."""
    seconds, hours, versions = result["cpu_seconds"], result["imagenet_hours"], result["versions"]
    assert isinstance(seconds, dict)
    assert isinstance(hours, dict)
    assert isinstance(versions, dict)
    return "\n".join(
        [
            f"{result['device']}; " + ", ".join(f"{name} {version}" for name, version in versions.items()),
            f"{result['photos']:,} photos of {result['mean_bytes']:,.0f} bytes on average; CPU seconds, medians:",
            *(f"  {name.replace('_', ', '):24}{value:8.2f}" for name, value in seconds.items()),
            f"prepare takes {result['ratio']:.2f} times decoding and encoding alone (target {result['target']}), "
            f"{result['ratio_with_shrinking']:.2f} times with shrinking",
            f"ImageNet's {IMAGENET_IMAGES:,} images at {result['cpu_ms_per_image']:.2f} CPU ms each, shared evenly "
            "among such cores, read and written as fast:",
            *(f"  {cores:>3} cores {value:6.2f} h" for cores, value in hours.items()),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
