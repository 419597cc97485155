"""Two real photos that every installation has: scikit-learn's china.jpg and flower.jpg, 640 × 427 pixels."""

from pathlib import Path


def sample_photos() -> list[bytes]:
    """Return both as JPEG files."""
    from sklearn.datasets import load_sample_images  # slow to import

    return [Path(name).read_bytes() for name in sorted(load_sample_images().filenames)]
