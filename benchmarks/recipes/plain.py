"""A training in plain PyTorch, as users of torchvision and timm write it, to hold a recipe against.

    python benchmarks/recipes/plain.py torchvision small --data ROOT --output FOLDER --seed 0 --threads 1

The network, the weights that it begins with, epochs and image sizes of the phases, the training images, mean and std,
and the evaluation are those of the recipe, and so is the computation, but for what a recipe freezes. All else is what
SETTINGS says, each row of which is written out after its source: DataLoader, Pillow, a head that begins as nn.Linear
does, batch norm over whole batches, torch.optim, a loop; autocast to bf16 where the recipe has that. An epoch leaves
out what does not fill a batch, as recipes do and timm does; torchvision's has one more, smaller batch.

Each photo is decoded once, before the training, and kept in memory, about 110 KB each at 160 px. Their users decode it
in every epoch, which takes longer and gives the same pixels. Writes FOLDER/result.json; its seconds are those of the
training, without that decoding.
"""

import argparse
import io
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from plain_transforms import (
    BICUBIC,
    BILINEAR,
    colour_jitter,
    mix,
    random_erasing,
    random_flip,
    random_resized_crop,
    to_tensor,
    trivial_augment,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from imagesprint.checkpoints.weights import TrainedModel, start_from
from imagesprint.console import Console
from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.evaluating.evaluation import evaluate, evaluation_set
from imagesprint.files import write_text
from imagesprint.model.batch_norm import BatchNorm2d, batch_norms
from imagesprint.model.building import build_model
from imagesprint.model.depths import head_of
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import RESNET_FIELDS, Phase, Recipe, kinds
from imagesprint.recipes.serialization import apply_overrides, to_dict
from imagesprint.recipes.validation import validate
from imagesprint.records.dataset import Dataset, Root, open_root
from imagesprint.runs.ranks import open_ranks
from imagesprint.training.optimizer import autocast, best_precision

RESULT = "result.json"


@dataclass(frozen=True)
class Settings:
    """What a reference training does. `lr` is the rate for batches of `lr_batch`, and is scaled to the recipe's batch;
    with `batch` that is kept instead. `drops` are the shares of the training after which the rate is divided by ten;
    without them it falls as a cosine, which begins behind the warm-up or, with `cosine_beneath`, at the start.
    `warm_up` are epochs, whose first rate is `warm_up_from` of the whole.
    """

    source: str
    lr: float
    lr_batch: int
    batch: int = 0  # 0: the recipe's
    drops: tuple[float, ...] = ()
    warm_up: int = 0
    warm_up_from: float = 0.01
    cosine_beneath: bool = False
    nesterov: bool = False
    weight_decay: float = 0.0
    decay: str = "all"  # or "no norms", or "matrices": neither norms nor biases
    zero_init: bool = False
    label_smoothing: float = 0.0
    trivial: bool = False
    jitter: float = 0.0
    bicubic_too: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


_BLOG = "pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives"
# fmt: off
SETTINGS = {
    # the defaults of references/classification/train.py: lr 0.1 for 8 × 32 images, divided every 30 of 90 epochs
    "torchvision": Settings(
        "pytorch/vision 017e9b9, references/classification/train.py", lr=0.1, lr_batch=256, drops=(1 / 3, 2 / 3),
        weight_decay=1e-4,
    ),
    # the new recipe's first line, and its label smoothing: what of it is not for 600 epochs
    "torchvision-cosine": Settings(
        f"{_BLOG}: LR optimizations, Label Smoothing", lr=0.5, lr_batch=1024, warm_up=5, weight_decay=1e-4,
        label_smoothing=0.1,
    ),
    # all of it but EMA and repeated augmentation: over few steps its average (0.99998 an image) hardly leaves the start
    "torchvision-2021": Settings(
        f"{_BLOG}: the whole recipe, without EMA and repeated augmentation", lr=0.5, lr_batch=1024, warm_up=5,
        weight_decay=2e-5, decay="no norms", label_smoothing=0.1, trivial=True, erasing=0.1, mixup=0.2, cutmix=1.0,
    ),
    # the defaults of train.py, but for the 10 epochs that it adds at the lowest rate, 1e-6; its sgd is Nesterov's
    "timm": Settings(
        "huggingface/pytorch-image-models 004fb5f, train.py", lr=0.05, lr_batch=128, warm_up=3, warm_up_from=0.002,
        cosine_beneath=True, nesterov=True, weight_decay=2e-5, decay="matrices", zero_init=True, label_smoothing=0.1,
        jitter=0.4, bicubic_too=True,
    ),
    # fine-tuning: batches of 4, divided every 7 of 25 epochs. It keeps the epoch that is best in validation; here, as
    # everywhere, the last one counts.
    "tutorial": Settings(
        "pytorch.org/tutorials/beginner/transfer_learning_tutorial", lr=1e-3, lr_batch=4, batch=4,
        drops=(7 / 25, 14 / 25, 21 / 25),
    ),
}
# fmt: on


def plain_form(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe that stands for the plain training: network, epochs, sizes, evaluation are those of `recipe`.

    Raises UsageError where its phases are in steps.
    """
    if recipe.phases[-1].epochs is None:
        raise UsageError(f"{recipe.name} has its phases in steps", "name a recipe whose phases are in epochs")
    phases = []
    for phase in recipe.phases:
        batch = settings.batch or phase.batch_size
        phases.append(Phase(phase.epochs, (0.1, 0.1), "constant", batch, batch, phase.image_size, phase.source))
    network = ("model", "init", "strides", *RESNET_FIELDS, "bn_momentum", "bn_eps")
    kept = (*network, "precision", "mean", "std", *(key for key in kinds(Recipe) if key.startswith("eval_")))
    bare = Recipe(recipe.name, tuple(phases), recipe.seed, zero_init=settings.zero_init)
    form = replace(bare, **{key: getattr(recipe, key) for key in kept})
    validate(form)
    return form


@dataclass(frozen=True, eq=False)
class Photos:
    """Decoded images, uint8 [H, W, 3] each, and their labels."""

    pixels: list[NDArray[np.uint8]]
    labels: list[int]

    @classmethod
    def decode(cls, dataset: Dataset) -> "Photos":
        files = (io.BytesIO(dataset.read(index)) for index in range(len(dataset)))
        return cls([np.asarray(Image.open(file).convert("RGB")) for file in files], dataset.labels.tolist())


class Images(TorchDataset[tuple[Tensor, Tensor]]):
    """Training images as float32 [3, S, S] with their labels, int64 []."""

    def __init__(self, photos: Photos, transform: Callable[[Image.Image], Tensor]) -> None:
        self.photos = photos
        self.transform = transform

    def __len__(self) -> int:
        return len(self.photos.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.photos.pixels[index])
        return self.transform(image), torch.tensor(self.photos.labels[index])


def transformed(image: Image.Image, settings: Settings, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """Return the image as it is trained on."""
    both = settings.bicubic_too and random.random() < 0.5
    image = random_flip(random_resized_crop(image, size, BICUBIC if both else BILINEAR))
    if settings.trivial:
        image = trivial_augment(image)
    if settings.jitter:
        image = colour_jitter(image, settings.jitter)
    return random_erasing(to_tensor(image, mean, std), settings.erasing)


def learning_rate(settings: Settings, batch: int, epoch: int, epochs: int) -> float:
    """Return the rate of a whole epoch, as torchvision and timm set it."""
    peak = settings.lr * batch / settings.lr_batch
    if epoch < settings.warm_up:
        return peak * (settings.warm_up_from + (1 - settings.warm_up_from) * epoch / settings.warm_up)
    if settings.drops:
        return float(peak * 0.1 ** sum(epoch >= round(drop * epochs) for drop in settings.drops))
    start = 0 if settings.cosine_beneath else settings.warm_up
    return peak * (1 + math.cos(math.pi * (epoch - start) / max(1, epochs - start))) / 2


def optimizer_of(network: nn.Module, settings: Settings) -> torch.optim.SGD:
    """Return SGD with momentum 0.9, the parameters grouped as the settings have it."""
    norms = {id(p) for norm in batch_norms(network) for p in norm.parameters()}
    spared: dict[str, Callable[[nn.Parameter], bool]] = {
        "all": lambda _: False,
        "no norms": lambda parameter: id(parameter) in norms,
        "matrices": lambda parameter: parameter.ndim <= 1,
    }
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    for parameter in network.parameters():
        groups[spared[settings.decay](parameter)].append(parameter)
    decays = settings.weight_decay, 0.0
    rows = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=True) if group]
    return torch.optim.SGD(rows, lr=0.0, momentum=0.9, nesterov=settings.nesterov)


def move_statistics(norm: BatchNorm2d, _inputs: object, _output: object) -> None:
    """Move the running statistics at each forward pass, as torch's batch norm does and ours leaves to the step."""
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.lerp_(norm.batch_mean, norm.momentum or 0.0)
        norm.running_var.lerp_(norm.batch_var, norm.momentum or 0.0)


def epoch_of_batches(
    loader: "DataLoader[tuple[Tensor, Tensor]]", settings: Settings, classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return images in channels_last and their targets: labels, or shares where images are mixed."""
    for images, labels in loader:
        targets = labels
        if settings.mixup:
            images, targets = mix(images, F.one_hot(labels, classes).float(), settings.mixup, settings.cutmix)
        yield images.contiguous(memory_format=torch.channels_last), targets


def loader_of(form: Recipe, phase: Phase, settings: Settings, photos: Photos, workers: int) -> "DataLoader[Any]":
    """Return the DataLoader of a phase."""
    mean, std = torch.tensor(form.mean), torch.tensor(form.std)
    transform = partial(transformed, settings=settings, size=phase.image_size, mean=mean, std=std)
    return DataLoader(
        Images(photos, transform),
        batch_size=phase.batch_size,
        shuffle=True,
        drop_last=True,  # as recipes count their steps
        num_workers=workers,
        persistent_workers=True,
    )


def network_of(form: Recipe, classes: int) -> nn.Module:
    """Return the recipe's network as it begins, with a head and batch norms that behave as torch's."""
    network = build_model(form, classes)
    head = head_of(network)
    if isinstance(head, nn.Linear):  # ours begin with smaller weights
        head.reset_parameters()
    if form.init:
        start_from(network, form.init, Console.silent())
    for norm in batch_norms(network):
        norm.register_forward_hook(move_statistics)
    return network.train()


def train(form: Recipe, settings: Settings, root: Root, threads: int) -> tuple[nn.Module, float]:
    """Train the network; return it with the seconds that it took. `form` has its precision settled."""
    names = {phase.source: root.nearest(phase.source) for phase in form.phases}
    photos = {name: Photos.decode(root.dataset(name, "train")) for name in sorted(set(names.values()))}
    torch.manual_seed(form.seed)
    random.seed(form.seed)
    torch.set_num_threads(threads)
    network = network_of(form, len(root.classes))
    optimizer = optimizer_of(network, settings)
    loss_of = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    spans = [(phase, range(*phase.epochs)) for phase in form.phases if phase.epochs is not None]
    epochs, began = spans[-1][1].stop, time.perf_counter()
    for phase, span in spans:
        loader = loader_of(form, phase, settings, photos[names[phase.source]], threads)
        for epoch in span:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, phase.batch_size, epoch, epochs)
            for images, targets in epoch_of_batches(loader, settings, len(root.classes)):
                with autocast(form, torch.device("cpu")):
                    logits = network(images)
                loss = loss_of(logits.float(), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            print(f"epoch {epoch + 1} of {epochs}: last loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return network, time.perf_counter() - began


def trained(form: Recipe, settings: Settings) -> Any:
    """Return what was trained, as JSON has it."""
    return json.loads(json.dumps({"recipe": to_dict(form), "settings": asdict(settings)}))


def judged(form: Recipe, settings: Settings, root: Root, threads: int) -> dict[str, Any]:
    """Train as `form` and the settings say; return what comes out, as JSON has it."""
    settled = replace(form, precision=best_precision(torch.device("cpu"))) if form.precision == "auto" else form
    network, seconds = train(settled, settings, root, threads)
    model = TrainedModel(network, settled, root.classes, 0)
    with open_ranks("cpu") as ranks:
        accuracy = evaluate(model, evaluation_set(root, model), ranks)
    return {
        "top1": accuracy.top1,
        "mean_class_accuracy": accuracy.mean_class_accuracy,
        "wall_seconds": seconds,
        "trained": trained(form, settings),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", choices=SETTINGS)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as train has it")
    parser.add_argument("--data", required=True, metavar="ROOT")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    settings = SETTINGS[args.settings]
    try:
        recipe = apply_overrides(load_recipe(args.recipe), [*args.set, f"seed={args.seed}"])
        found = judged(plain_form(recipe, settings), settings, open_root(args.data), args.threads)
        args.output.mkdir(parents=True, exist_ok=True)
        write_text(args.output / RESULT, json.dumps(found, indent=2) + "\n")
    except ImagesprintError as error:
        print(f"error: {error.what}\nhint: {error.hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
