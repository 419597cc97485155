"""A model that was really trained, if briefly: on scikit-learn's digits."""

from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from imagesprint.console import Console
from imagesprint.inference.exporting import Exported, export
from imagesprint.prepare.preparing import prepare
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.training import TrainingOptions, train

RECIPE = Recipe(
    name="digits",
    model="resnet20",
    precision="fp32",
    momentum=0.9,
    flip=False,
    eval_source="full",
    eval_resize=24,
    eval_image_size=20,
    eval_batch_size=32,
    phases=(Phase((0, 2), (0.1, 0.0), "linear", 32, 32, 16, "full", 0.6),),
)


@pytest.fixture(scope="session")
def digit_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 digits, {zero,one,two}/NNNN.jpg of 32 × 32 pixels."""
    folder = tmp_path_factory.mktemp("digits") / "images"
    pixels, labels = load_digits(n_class=3, return_X_y=True)
    for number, (digit, label) in enumerate(zip(pixels[:200], labels[:200], strict=True)):
        file = folder / ("zero", "one", "two")[label] / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digit.reshape(8, 8) * (255 / 16)).astype("uint8"))
        image.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB").save(file, quality=90)
    return folder


@pytest.fixture(scope="session")
def digit_root(digit_images: Path) -> Path:
    """`digit_images` prepared as full, a fifth for validation."""
    root = digit_images.with_name("root")
    prepare(digit_images, root, variants=("full",), val_fraction=0.2, workers=1, console=Console(quiet=True))
    return root


@pytest.fixture(scope="session")
def digit_run(digit_root: Path) -> Path:
    """A run of two epochs on `digit_root`."""
    run = digit_root.with_name("run")
    train(RECIPE, digit_root, run, TrainingOptions(device="cpu"), Console(quiet=True))
    return run


@pytest.fixture(scope="session")
def digit_checkpoint(digit_run: Path) -> Path:
    """The last checkpoint of `digit_run`."""
    return sorted((digit_run / "checkpoints").iterdir())[-1]


@pytest.fixture(scope="session")
def digit_export(digit_run: Path) -> Exported:
    """`digit_run` as an .onnx file. It takes seconds to make one: who needs its graph alone has it from here."""
    return export(digit_run, digit_run.with_name("onnx.onnx"), None, Console.silent())
