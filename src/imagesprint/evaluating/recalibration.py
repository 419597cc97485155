"""Batch-norm recalibration: running statistics measured anew, on images as evaluation sees them.

Random crops show objects larger than the centre crop does, so the statistics of training are not those of evaluation
(Touvron et al. 2019, "Fixing the train-test resolution discrepancy", section 4).
"""

import torch

from imagesprint.errors import UsageError
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.batch_norm import batch_norms
from imagesprint.model.weights import TrainedModel
from imagesprint.records.dataset import Dataset


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
            model(batch.images.to(model.mean.device))
            for (mean, variance), norm in zip(sums, norms, strict=True):
                mean += norm.batch_mean
                variance += norm.batch_var
    for (mean, variance), norm in zip(sums, norms, strict=True):
        norm.running_mean = mean / count
        norm.running_var = variance / count
    model.eval()
