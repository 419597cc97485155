"""`evaluate --url`: the validation split through a running `imagesprint serve`, each image in a request of its own.

A request is the image's stored bytes, as a program of a user would send them, and its answer the logits, exactly. Of
these the figures are made as those of any evaluation, by `note`.
"""

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imagesprint.console import Console, Progress
from imagesprint.errors import DataError
from imagesprint.evaluating.evaluation import Outcomes, accuracy, blank_table, check_classes, note, read_table
from imagesprint.evaluating.evaluator import EvaluatedCheckpoint
from imagesprint.evaluating.results import details
from imagesprint.evaluating.server import RefusedError, ServedModel, Server
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Dataset, open_root
from imagesprint.storage.url import Place

CLIENTS: Final = 16  # requests on their way at a time: a batch of the server's while it works on another one


def evaluate_served(
    url: Place, data: Place, variant: str | None, console: Console
) -> tuple[EvaluatedCheckpoint, ServedModel]:
    """Judge the model that the server at `url` serves on the validation split of `data`, and what it says of it.

    The images are those of `variant`, by default the one that the model's recipe evaluates on. Each is answered once;
    where the server has no room for one, it is sent again later. Raises ServerError for a server that is none of ours,
    fails, is gone or takes another checkpoint meanwhile, DataError where its classes are not those of `data` or it
    refuses an image, and as `open_root` and `Root.dataset` do.
    """
    root = open_root(data)
    with Server(url) as server:
        model = server.model()
        check_classes(root, model.classes)
        dataset = root.dataset(variant or root.nearest(model.recipe.eval_source), "validation")
        console.line(f"server      {model.recipe.model} after step {model.step:,}, {model.runtime}, {model.precision}")
        outcomes = judge_served(server, model, dataset, console)
        if server.model() != model:
            raise server.replaced(model)
    figures = accuracy(outcomes, dataset.labels, model.precision)
    return EvaluatedCheckpoint(
        path=model.checkpoint,
        step=model.step,
        epoch=Schedule(model.recipe, model.num_train).epochs_done(model.step),
        num_images=figures.num_images,
        top1=figures.top1,
        top5=figures.top5,
        mean_class_accuracy=figures.mean_class_accuracy,
        loss=figures.loss,
        precision=figures.precision,
        views=(),
        details=details(outcomes, dataset.labels, root.classes),
    ), model


def judge_served(server: Server, model: ServedModel, dataset: Dataset, console: Console) -> Outcomes:
    """What the answers to all images of `dataset` come to. Raises as `evaluate_served` does."""
    table = blank_table(len(dataset), torch.device("cpu"))
    labels = torch.from_numpy(dataset.labels.astype(np.int64))
    progress = Progress(console, "evaluating")
    progress.begin(len(dataset), 0)
    for sample_id, logits in enumerate(_answers(server, model, dataset)):
        rows = torch.tensor([sample_id])
        note(torch.from_numpy(logits[None]), labels[rows], rows, table)
        progress.add(1)
    progress.end()
    outcomes = read_table(table)
    assert outcomes is not None, "an image was not answered"
    return outcomes


def _answers(server: Server, model: ServedModel, dataset: Dataset) -> Iterator[NDArray[np.float32]]:
    """The logits of each image, float32 [C], in order."""

    def ask(sample_id: int) -> NDArray[np.float32]:
        try:
            return server.logits(model, encoded_image(dataset, sample_id))
        except RefusedError as error:
            raise DataError(f"{dataset.describe(sample_id)}: {error.what}", error.hint) from error

    dataset.expect(np.arange(len(dataset)))
    asked: deque[Future[NDArray[np.float32]]] = deque()
    with ThreadPoolExecutor(CLIENTS, "imagesprint-client") as pool:
        try:
            for sample_id in range(len(dataset)):
                asked.append(pool.submit(ask, sample_id))
                if len(asked) == 2 * CLIENTS:
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()
        except BaseException:  # Ctrl-C, too: nobody waits for what is still on its way
            pool.shutdown(wait=False, cancel_futures=True)
            server.close()
            raise


def encoded_image(dataset: Dataset, sample_id: int) -> bytes:
    """The stored bytes of an image; raw pixels as PNG, which has the same, though another program shrinks it."""
    stored = dataset.read(sample_id)
    if dataset.image_format != "raw":
        return bytes(stored)
    height, width = dataset.sizes[sample_id].tolist()
    pixels = np.frombuffer(stored, np.uint8).reshape(height, width, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
