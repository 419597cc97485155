"""Features once: where the backbone never moves, each image passes through it one time, and the head trains on that.

The features of an image are what the head takes of it. They are made as an evaluation's logits are: in its arithmetic,
in padded batches of fixed size dealt to the ranks, so that no bit depends on their number. They are not kept on the
disk: a resumed run makes them anew, to the same bits.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.console import Console, Progress
from imagesprint.evaluating.evaluation import evaluation_arithmetic
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import EvaluationLoader, Loader
from imagesprint.model.depths import head_of
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Dataset
from imagesprint.runs.ranks import Ranks


def make_features(model: TrainedModel, dataset: Dataset, ranks: Ranks, console: Console) -> tuple[Tensor, int]:
    """The features of all training images `dataset`, float32 [N, …] in host memory, row i those of sample i.

    `model` lies on the ranks' device; its recipe has features once, and says of what size images are. Returns the same
    on every rank, and beside it how many images this rank's native decoder left to Pillow. Raises RecordError or
    ImageError for damaged data.
    """
    recipe = model.recipe
    loader = features_loader(recipe, dataset, ranks)
    model.eval()
    shape = blank_features(model, ranks.device).shape[1:]  # also where a rank has no batch
    table = torch.zeros((len(dataset), *shape), device=ranks.device)
    progress = Progress(console, "features  ")
    progress.begin(len(dataset), 0)
    shown = 0
    with loader:
        for batch in loader:
            rows = batch.sample_ids[batch.mask].to(ranks.device)
            table[rows] = features_of(model, batch.images.to(ranks.device))[: len(rows)]
            done = min((batch.step + ranks.world_size) * recipe.eval_batch_size, len(dataset))  # by all ranks, about
            progress.add(done - shown)
            shown = done
    progress.end()
    ranks.sum(table)
    return table.cpu(), loader.fallbacks


def features_loader(recipe: Recipe, dataset: Dataset, ranks: Ranks) -> EvaluationLoader:
    """This rank's share of all images of `dataset`, as features are made of them."""
    size = recipe.phases[0].image_size
    # A shorter side of `size`, and its centre square: what crop "center" makes of an image
    return EvaluationLoader(dataset, size, size, recipe.eval_batch_size, ranks.rank, ranks.world_size, ranks.threads)


def blank_features(model: TrainedModel, device: torch.device) -> Tensor:
    """What the head takes of a black image: float32 [1, …]. `model` lies on `device`."""
    size = model.recipe.phases[0].image_size
    return features_of(model, torch.zeros((1, size, size, 3), dtype=torch.uint8, device=device))


@torch.no_grad()
def features_of(model: TrainedModel, images: Tensor) -> Tensor:
    """What the head takes of uint8 images [N, S, S, 3]: float32 [N, …]."""
    taken: list[Tensor] = []

    def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.append(inputs[0])

    with head_of(model.network).register_forward_pre_hook(take), evaluation_arithmetic(images.device):
        model(images)
    return taken[0]


def feature_batches(loader: Loader, features: Tensor) -> Iterator[Batch]:
    """The batches of `loader`, but with the rows of `features` in the place of images: nothing is read or decoded."""
    for load in loader.loads(are_read=False):
        sample_ids = torch.from_numpy(load.sample_ids)
        yield Batch(
            images=features[sample_ids],
            labels=torch.from_numpy(load.dataset.labels[load.sample_ids].astype(np.int64)),
            sample_ids=sample_ids,
            mask=torch.ones(len(sample_ids), dtype=torch.bool),
            step=load.step,
            draws=torch.from_numpy(load.draws),
        )
