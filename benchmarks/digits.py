"""A small dataset of real images, prepared: some of scikit-learn's digits, four of five for training."""

import subprocess
import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits


def prepare_digits(folder: Path, images: int) -> Path:
    """Write the first `images` digits into `folder` and prepare them, full and 16; returns the ROOT."""
    digits, root = load_digits(), folder / "data"
    for index, (pixels, label) in enumerate(zip(digits.images[:images], digits.target[:images], strict=True)):
        file = folder / "images" / str(label) / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).astype("uint8")).resize((32, 32)).save(file)
    words = ["prepare", folder / "images", root, "--variants", "full,16", "--val-fraction", "0.2", "--shards", "2"]
    prepare = [sys.executable, "-m", "imagesprint", *map(str, words), "--quiet"]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    return root
