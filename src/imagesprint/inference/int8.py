"""`--int8`: a trained model in 8 bits, calibrated on images that it was trained on and judged on those it was not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.console import Console, Progress
from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.evaluating.evaluation import (
    Accuracy,
    accuracy,
    blank_table,
    check_classes,
    evaluation_set,
    judge,
    read_table,
)
from imagesprint.inference.formats import Infer, graph
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.records.dataset import Dataset, Root, open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.local_run import local_run
from imagesprint.runs.rows import Began
from imagesprint.storage.url import Place

CALIBRATION_IMAGES: Final = 256
_BATCH: Final = 8  # images that calibration takes at once: all activations of theirs are in memory


@dataclass(frozen=True)
class Int8Accuracy:
    """What a model in int8 came to on `num_images` validation images beside the original, accuracies in percent.

    It was calibrated on `calibration_images` of the training split.
    """

    num_images: int
    top1: float
    top5: float
    mean_class_accuracy: float
    fp32_top1: float
    fp32_top5: float
    fp32_mean_class_accuracy: float
    calibration_images: int

    @property
    def drop(self) -> float:
        """How many points of top-1 less than the original's; below 0 where it is more."""
        return self.fp32_top1 - self.top1


def to_int8(model: TrainedModel, root: Root, console: Console) -> bytes:
    """The graph of `model` in int8, an encoded ModelProto, calibrated on images of the training split of `root`.

    They are spread evenly over the split, and seen as evaluation sees them: the same each time. Raises DataError where
    the classes differ, RunError for a model that cannot be exported, RecordError or ImageError for damaged data.
    """
    from imagesprint.inference.quantising import quantised  # imports onnx

    check_classes(root, model.classes)
    recipe, progress = model.recipe, Progress(console, "calibrating")
    dataset = root.dataset(root.nearest(recipe.eval_source), "train")
    sample_ids = _spread(dataset)
    sizes = (recipe.eval_image_size, recipe.eval_resize)
    loader = EvaluationLoader(dataset, *sizes, _BATCH, sample_ids=sample_ids, shape=recipe.eval_shape)

    def batches() -> Iterator[NDArray[np.uint8]]:
        for batch in loader:
            yield batch.images[batch.mask].numpy()
            progress.add(int(batch.mask.sum()))

    exact = graph(model)
    progress.begin(len(sample_ids), 0)
    with loader:
        content = quantised(exact, batches())
    progress.end()
    return content


def _spread(dataset: Dataset) -> NDArray[np.int64]:
    """The ids of CALIBRATION_IMAGES samples, or of all there are."""
    return np.linspace(0, len(dataset) - 1, min(CALIBRATION_IMAGES, len(dataset))).round().astype(np.int64)


def judge_int8(model: TrainedModel, infer: Infer, root: Root, console: Console) -> Int8Accuracy:
    """Judge `model` and `infer`, which is it in int8, on every image of the validation split of `root`, as `evaluate`.

    Raises as `evaluate` does.
    """
    dataset, recipe, progress = evaluation_set(root, model), model.recipe, Progress(console, "judging")
    sizes = (recipe.eval_image_size, recipe.eval_resize, recipe.eval_batch_size)
    loader = EvaluationLoader(dataset, *sizes, shape=recipe.eval_shape)

    def in_int8(images: Tensor) -> Tensor:
        return torch.from_numpy(infer(images.numpy()))

    fp32, int8 = (blank_table(len(dataset), torch.device("cpu")) for _ in range(2))
    progress.begin(len(dataset), 0)
    with loader:
        for batch in loader:
            judge(model, [batch], fp32)
            judge(in_int8, [batch], int8)
            progress.add(int(batch.mask.sum()))
    progress.end()
    theirs, ours = _accuracy(fp32, dataset, "fp32"), _accuracy(int8, dataset, "int8")
    return Int8Accuracy(
        num_images=ours.num_images,
        top1=ours.top1,
        top5=ours.top5,
        mean_class_accuracy=ours.mean_class_accuracy,
        fp32_top1=theirs.top1,
        fp32_top5=theirs.top5,
        fp32_mean_class_accuracy=theirs.mean_class_accuracy,
        calibration_images=len(_spread(root.dataset(dataset.variant, "train"))),
    )


def _accuracy(table: Tensor, dataset: Dataset, precision: str) -> Accuracy:
    outcomes = read_table(table)
    assert outcomes is not None, "every image of the split was judged"
    return accuracy(outcomes, dataset.labels, precision)


def data_of(checkpoint: Place, console: Console) -> Root:
    """The data that the run of a checkpoint was trained on, if it is still there.

    Raises UsageError where the run does not say it, or nothing is there any more.
    """
    run = checkpoint.parent.parent
    with local_run(run, console) as folder:
        commands = RunDirectory(folder).commands()
    hint = f"imagesprint export {checkpoint} FILE.onnx --int8 --data ROOT makes a file that is in int8"
    named = [row.data for row in commands if isinstance(row, Began) and row.data]
    if not named:
        raise UsageError(f"{run} does not say which data {checkpoint.name} was trained on", hint)
    try:
        return open_root(named[-1])
    except ImagesprintError as error:
        raise UsageError(f"the data that {run} was trained on is not there: {error.what}", hint) from error
