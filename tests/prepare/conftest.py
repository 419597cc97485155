from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def read_tree() -> Callable[[Path], dict[str, bytes]]:
    """Returns the bytes of every file below a folder, by relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture(scope="session")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-folder tree of 2 × 30 training and 2 × 3 validation photos of 600 × 400 pixels: a second of work."""
    folder = tmp_path_factory.mktemp("large-photos")
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for split, count in (("train", 30), ("val", 3)):
            target = folder / split / name
            target.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(photo[i % 27 :, i:][:400, :600]).save(target / f"{split}-{i}.jpg", quality=90)
    return folder
