"""Test-time views, the ways to judge a checkpoint: the plain one that its recipe says, and each option beside it.

Random crops show objects larger than the centre crop does, so the statistics of training are not those of evaluation
(Touvron et al. 2019, "Fixing the train-test resolution discrepancy", section 4).

As fast.ai did it for DAWNBench in 2018 (github.com/cybertronai/imagenet18): what lies left and right of the centre
square is seen, too.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.errors import UsageError
from imagesprint.evaluating.evaluation import evaluation_arithmetic
from imagesprint.images.decoding import open_rgb
from imagesprint.loading.batch import Batch, read_encoded
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.batch_norm import batch_norms
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Dataset


@dataclass(frozen=True)
class View:
    """A way to judge: its name, and what is unlike the recipe's own evaluation, which has one crop of each image."""

    name: str = "plain"
    weights: str = ""  # "model" or "ema"; "": the moving average where the recipe keeps one, else the weights
    recalibrate: int = 0  # training images to take batch norm's statistics from; 0: those of the training
    flip: bool = False  # mean of the logits of the image and its mirror image
    size: int = 0  # pixels; 0: the recipe's
    rectangular: bool = False  # the image's own aspect ratio instead of a square

    def describe(self) -> dict[str, object]:
        """All of it, in plain types."""
        return asdict(self)

    def sizes(self, recipe: Recipe) -> tuple[int, int]:
        """What the shorter side is resized to, and the side of the crop: the same part of the image at every size."""
        size = self.size or recipe.eval_image_size
        return round(size * recipe.eval_resize / recipe.eval_image_size), size

    def model(self, path: Path, plain: TrainedModel, training_set: Callable[[], Dataset]) -> TrainedModel:
        """The model to judge, on the device of `plain`, which is the one that the checkpoint at `path` stands for."""
        if not self.weights and not self.recalibrate:
            return plain
        model = load_model(path, self.weights).to(plain.mean.device)
        if self.recalibrate:
            recalibrate(model, training_set(), self.recalibrate)
        return model

    def logits(self, model: TrainedModel) -> Callable[[Tensor], Tensor]:
        """From uint8 images [N, H, W, 3] to logits [N, C]."""
        if not self.flip:
            return model
        return lambda images: (model(images) + model(images.flip(2))) / 2


PLAIN: Final = (View(),)


def chosen_views(
    weights: str = "", recalibrate: int = 0, flip: bool = False, sizes: tuple[int, ...] = (), rectangular: bool = False
) -> tuple[View, ...]:
    """The plain view, then one for each option of `evaluate` that is asked for."""
    views = [*PLAIN]
    if weights:
        views.append(View(f"weights: {weights}", weights=weights))
    if recalibrate:
        views.append(View(f"recalibrated on {recalibrate}", recalibrate=recalibrate))
    if flip:
        views.append(View("with its mirror image", flip=True))
    views += [View(f"{size} px", size=size) for size in sizes]
    if rectangular:
        views.append(View("rectangular", rectangular=True))
    return tuple(views)


@torch.inference_mode()
def recalibrate(model: TrainedModel, training_set: Dataset, num_images: int) -> None:
    """Replace the running statistics of `model` by the mean over batches of about `num_images` of `training_set`.

    The batches lie evenly over the split, so the same ones are taken on every rank. Raises UsageError where the
    network has no batch norm.
    """
    norms = batch_norms(model)
    if not norms:
        raise UsageError(f"--recalibrate: {model.recipe.model} has no batch norm", "leave --recalibrate away")
    recipe = model.recipe
    batch_size = min(recipe.eval_batch_size, num_images, len(training_set))
    whole = len(training_set) // batch_size
    count = min(whole, max(1, num_images // batch_size))
    loader = EvaluationLoader(
        training_set, recipe.eval_image_size, recipe.eval_resize, batch_size, world_size=whole // count
    )
    sums = [[torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)] for norm in norms]  # type: ignore[arg-type]
    for norm in norms:
        norm.train()
    with loader:
        for _, batch in zip(range(count), loader, strict=False):
            with evaluation_arithmetic(model.mean.device):
                model(batch.images.to(model.mean.device))
            for (mean, variance), norm in zip(sums, norms, strict=True):
                mean += norm.batch_mean
                variance += norm.batch_var
    for (mean, variance), norm in zip(sums, norms, strict=True):
        norm.running_mean = mean / count
        norm.running_var = variance / count
    model.eval()


MULTIPLE = 8  # pixels that the longer side is rounded down to


def rectangular_batches(
    dataset: Dataset, resize: int, size: int, batch_size: int, share: tuple[int, int], threads: int
) -> Iterator[Batch]:
    """Batches of all images of `dataset` whose shorter side is `size`; rank r of W, the `share`, gets r, r + W, ….

    Each image's shorter side is resized to `resize` and the central rectangle cut out, at most the whole image. The
    images of a batch, [batch_size, H, W, 3], are padded like the loaders'. Decoded by Pillow.
    """
    rank, world_size = share
    ratios = dataset.sizes[:, 1] / dataset.sizes[:, 0]
    order = np.argsort(ratios, kind="stable")
    starts = range(rank * batch_size, len(order), world_size * batch_size)
    dataset.expect(np.concatenate([order[:0], *(order[start : start + batch_size] for start in starts)]), anew=True)
    with ThreadPoolExecutor(threads) as pool:
        for start in starts:
            ids = order[start : start + batch_size]
            height, width = _shape(float(ratios[ids].mean()), size)
            boxes = _central(dataset.sizes[ids], resize, height, width)
            cuts = pool.map(lambda i, box, shape=(width, height): _cut(dataset, i, box, shape), ids.tolist(), boxes)
            yield _batch(dataset, ids, list(cuts), batch_size, start // batch_size)


def _shape(ratio: float, size: int) -> tuple[int, int]:
    """Height and width, the shorter of them `size`."""
    longer = max(size, int(size * max(ratio, 1 / ratio)) // MULTIPLE * MULTIPLE)
    return (size, longer) if ratio >= 1 else (longer, size)


def _central(sizes: NDArray[np.int32], resize: int, height: int, width: int) -> list[tuple[int, ...]]:
    """The boxes to cut out of stored images, as left, top, right, bottom."""
    scale = sizes.min(1) / resize
    across = np.clip(np.rint(width * scale).astype(np.int64), 1, sizes[:, 1])
    down = np.clip(np.rint(height * scale).astype(np.int64), 1, sizes[:, 0])
    left, top = (sizes[:, 1] - across) // 2, (sizes[:, 0] - down) // 2
    return [tuple(box) for box in np.stack([left, top, left + across, top + down], 1).tolist()]


def _cut(dataset: Dataset, sample_id: int, box: tuple[int, ...], shape: tuple[int, int]) -> NDArray[np.uint8]:
    image = open_rgb(read_encoded(dataset, sample_id))
    return np.asarray(image.crop(box).resize(shape, Image.Resampling.BILINEAR))  # type: ignore[arg-type]


def _batch(dataset: Dataset, ids: NDArray[np.intp], cuts: list[NDArray[np.uint8]], rows: int, number: int) -> Batch:
    images = torch.zeros((rows, *cuts[0].shape), dtype=torch.uint8)
    images[: len(ids)] = torch.from_numpy(np.stack(cuts))
    labels, sample_ids = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), -1)
    labels[: len(ids)] = torch.from_numpy(dataset.labels[ids].astype(np.int64))
    sample_ids[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
    return Batch(images, labels, sample_ids, sample_ids >= 0, number, torch.empty((rows, 0)))
