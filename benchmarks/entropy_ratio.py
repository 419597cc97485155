"""The decoder over entropy decoding alone, at moments when nobody else was seen on the processor core.

    python benchmarks/entropy_ratio.py ROOT --variant full --image-size 224 --json FILE

`bench data` has the same ratio; but on a virtual machine somebody else may compute on the other thread of the core, and
that slows arithmetic (inverse DCT, colour, resizing) more than the waiting for bits that entropy decoding is. So each
image is timed between two looks at how many additions the core makes while it makes one multiplication: 12 on a Zen 3
that has nothing else to do (four a cycle; three cycles), of which it reaches 11.5, and 6 to 8 beside such a neighbour.
A look takes ten microseconds: a neighbour that comes and goes between two, or waits for memory, is not seen.
Needs an x86-64 processor and `cc`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagesprint.diagnosis.data_programs import LoadingWork
from imagesprint.diagnosis.machine import processor
from imagesprint.files import write_text
from imagesprint.images.native import LIBRARY, read_info
from imagesprint.records.dataset import open_root

ALONE = 10.8, 12.5  # additions in the time of a multiplication; more are a look that was interrupted
LEAST = 3  # timings of an image and part that must be alone
BATCH_SIZE, BATCHES = 128, 8
ROUNDS = 15
Times = NDArray[np.float64]  # [ROUNDS, decoder | whole | rows, nanoseconds | looks, images]


def time_images(program: Path, work: LoadingWork) -> Times:
    """Return what `program` measures on the images and crops of `work`."""
    images, crops, flips = [], [], []
    for batch in work.batches().held[: work.steps]:
        sound = [row for row, data in enumerate(batch.encoded) if read_info(data) is not None]
        images += [batch.encoded[row] for row in sound]
        crops.append(batch.crops[sound])
        flips.append(batch.flips[sound])
    content = np.array([len(images), work.image_size], np.int64).tobytes()
    content += np.concatenate(crops).astype(np.int32).tobytes() + np.concatenate(flips).astype(np.uint8).tobytes()
    content += np.array([len(image) for image in images], np.int64).tobytes() + b"".join(map(bytes, images))
    done = subprocess.run([program, str(ROUNDS)], input=content, stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout).reshape(ROUNDS, 3, 2, len(images))


def build(folder: Path) -> Path:
    """Compile the program against the library that imagesprint uses."""
    source, program = Path(__file__).with_suffix(".c"), folder / "entropy_ratio"
    native = source.parent.parent / "native"
    linked = [str(LIBRARY), f"-Wl,-rpath,{LIBRARY.parent}"]
    subprocess.run(["cc", "-std=gnu11", "-O2", "-I", native, source, *linked, "-o", program], check=True)
    return program


def ratios(times: Times) -> dict[str, Any]:
    """Return the ratios of those images that were seen alone often enough in all three parts, from the median of each
    one's timings, alone and all, and how many images these are.
    """
    nanoseconds, looks = times[1:, :, 0], times[1:, :, 1]  # the first round warms up
    alone = (looks > ALONE[0]) & (looks < ALONE[1])
    chosen = (alone.sum(axis=0) >= LEAST).all(axis=0)
    found: dict[str, Any] = {"images": int(chosen.sum()), "of_images": len(chosen), "alone_share": float(alone.mean())}
    kinds = {"alone": np.where(alone, nanoseconds, np.nan), "all": nanoseconds}
    for kind, timings in kinds.items():
        decoder, whole, rows = np.nanmedian(timings[:, :, chosen], axis=0).mean(axis=1) / 1000
        found[kind] = {"whole": decoder / whole, "rows": decoder / rows, "decoder_microseconds": decoder}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    images = len(open_root(args.root).dataset(args.variant, "train"))
    work = LoadingWork(args.root, args.variant, args.image_size, min(BATCH_SIZE, images), BATCHES, 1)
    begun = time.strftime("%Y-%m-%d %H:%M:%S")
    with tempfile.TemporaryDirectory() as folder:
        times = time_images(build(Path(folder)), work)
    found = ratios(times)
    for kind in ("alone", "all"):
        print(f"{kind:5}", *(f"{name} {value:.3f}" for name, value in found[kind].items()))
    print(f"{found['images']} of {found['of_images']} images; {found['alone_share']:.0%} of the timings alone")
    if args.json is not None:
        asked = {"data": str(args.root), "variant": args.variant, "image_size": args.image_size}
        content = {"begun": begun, "device": processor(), **asked, **found}
        write_text(args.json, json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
