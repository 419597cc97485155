"""A model to serve, made in a minute where there is none: a ResNet as initialised, with a head that knows ten photos.

    python benchmarks/serving_models.py FOLDER [--models NAME,…]

Prepares photos that `photos.py` generates into FOLDER/root, and writes the runs FOLDER/resnet18-64 and
FOLDER/resnet50-224, with exported files beside them. The statistics of the batch norms are those of training photos,
and the last layer is fitted to their features. So each photo has an answer of its own, which a server may get wrong,
and the speed is that of any trained model of its kind.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from photos import make_root

from imagesprint.checkpoints.naming import checkpoint_path
from imagesprint.files import write_text
from imagesprint.inference.prediction import ImageReader
from imagesprint.model.batch_norm import BatchNorm2d
from imagesprint.model.building import build_model, normalize
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_dict, to_toml
from imagesprint.records.dataset import Root, open_root

NUM_TRAIN: Final = 160  # photos that a head is fitted to
RIDGE: Final = 1e-2  # of the features' mean square, which keeps the fit from learning single photos by heart
SHARPNESS: Final = 4.0  # logits between a right class and a wrong one, about: probabilities are not all 1
RECIPES: Final = {
    "resnet18-64": replace(load_recipe("small"), name="resnet18-64", eval_resize=72, eval_image_size=64),
    "resnet50-224": replace(load_recipe("baseline90"), name="resnet50-224", eval_batch_size=32),
}
NAMES: Final = [f"{name}-{precision}" for name in RECIPES for precision in ("fp32", "int8")]


@dataclass(frozen=True)
class Photo:
    """A JPEG file of the validation split, as it is stored."""

    content: bytes
    label: int


def prepare_photos(folder: Path) -> Path:
    """The ROOT in `folder`, made once: training and validation photos of ten classes, 500 × 375 and 160 high."""
    root = folder / "root"
    if not root.exists():
        make_root(root, NUM_TRAIN, 375, ("full", "160"), shards=1)
    return root


def photos_for(root: Path, recipe: Recipe) -> list[Photo]:
    """The validation photos of the variant that `recipe` evaluates on."""
    opened = open_root(root)
    dataset = opened.dataset(opened.nearest(recipe.eval_source), "validation")
    return [Photo(bytes(dataset.read(i)), int(dataset.labels[i])) for i in range(len(dataset))]


def make_run(run: Path, root: Path, recipe: Recipe) -> Path:
    """Write `run`, with one checkpoint of a model that tells the photos of `root` apart; made once."""
    checkpoint = checkpoint_path(run, 1)
    if checkpoint.exists():
        return run
    opened = open_root(root)
    network = _fitted(opened, recipe)
    content = {
        "model": network.state_dict(),
        "ema": None,
        "step": 1,
        "recipe": to_dict(recipe),
        "classes": list(opened.classes),
        "num_train": 1_281_167,  # ImageNet's, as the recipes' batches want
    }
    checkpoint.parent.mkdir(parents=True)
    write_text(run / "recipe.toml", to_toml(recipe))
    torch.save(content, checkpoint)
    return run


@torch.no_grad()
def _fitted(root: Root, recipe: Recipe) -> torch.nn.Module:
    network = build_model(recipe, len(root.classes))
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    for norm in norms:
        norm.weight.fill_(0.5 if norm.weight.max() == 0 else 1.0)  # a block whose last scale is 0 computes nothing
    head = network.fc
    network.fc = torch.nn.Identity()
    dataset = root.dataset(root.nearest(recipe.eval_source), "train")
    with ImageReader(recipe.eval_image_size, recipe.eval_resize) as reader:
        pixels, failures = reader.decode([bytes(dataset.read(i)) for i in range(len(dataset))])
    assert not failures
    images = normalize(torch.from_numpy(np.stack(pixels)), torch.tensor(recipe.mean), torch.tensor(recipe.std))
    network.train()
    network(images[:: max(1, len(images) // 32)])
    for norm in norms:
        norm.running_mean.copy_(norm.batch_mean)
        norm.running_var.copy_(norm.batch_var)
    network.eval()
    features = torch.cat([network(part) for part in images.split(32)]).double()
    targets = torch.nn.functional.one_hot(torch.from_numpy(dataset.labels.astype(np.int64)), len(root.classes)).double()
    mean = features.mean(0)
    centred = features - mean
    gram = centred.T @ centred + RIDGE * len(features) * centred.square().mean() * torch.eye(centred.shape[1])
    weight = SHARPNESS * torch.linalg.solve(gram, centred.T @ (targets - targets.mean(0))).T
    head.weight.copy_(weight)
    head.bias.copy_(-weight @ mean)
    network.fc = head
    return network


def export(run: Path, file: Path, *flags: str) -> Path:
    """Export the model of `run` to `file`, made once, by the command line."""
    if not file.exists():
        words = [sys.executable, "-m", "imagesprint", "export", str(run), str(file), *flags, "--quiet"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return file


def make_models(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The exported files by `names`, of NAMES."""
    root, files = prepare_photos(folder), {}
    for name in names:
        kind, _, precision = name.rpartition("-")
        run = make_run(folder / kind, root, RECIPES[kind])
        flags = ("--int8", "--data", str(root), "--max-drop", "20") if precision == "int8" else ()  # of 20 photos
        files[name] = export(run, folder / f"{name}.onnx", *flags)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=lambda text: text.split(","), default=NAMES)
    arguments = parser.parse_args()
    for name, file in make_models(arguments.folder, arguments.models).items():
        print(f"{name}: {file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
