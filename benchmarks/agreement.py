"""Whether `evaluate`, `predict` and an exported ONNX file say the same of every validation image.

    python benchmarks/agreement.py RUN ROOT
    python benchmarks/agreement.py RUN ROOT --originals ../shared/data/flowers-full

The images as the shards hold them are judged by `evaluate`, written out as files for `predict`, and given as pixels to
ONNX Runtime. Exits 3 unless all have the same likeliest class and probabilities within 0.001, and `evaluate` counts
what `predict` gets right. With --originals (CLASS/NAME.jpg below that folder), `predict` on each photo that is in the
shards too, under the same class and name, is compared with the one from its shard, which was made smaller in between.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.cli.output import table
from imagesprint.console import Console
from imagesprint.evaluating.evaluation import evaluate, evaluation_set
from imagesprint.inference.exporting import export
from imagesprint.inference.formats import Infer, in_onnx_runtime, in_torch
from imagesprint.inference.opening import OpenModel, open_model
from imagesprint.inference.prediction import predict
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.records.dataset import Dataset, open_dataset, open_root
from imagesprint.runs.ranks import open_ranks

LIMIT = 1e-3

Probabilities = NDArray[np.float64]  # [images, classes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run or a checkpoint")
    parser.add_argument("root", type=Path, help="the prepared data with its validation split")
    parser.add_argument("--originals", type=Path, help="a folder of photos that the data was made from")
    args = parser.parse_args()
    console = Console()
    model, opened = load_model(args.run), open_model(args.run, "torch", "cpu", console)
    dataset = evaluation_set(open_root(args.root), model)
    with tempfile.TemporaryDirectory() as folder:
        export(args.run, Path(folder, "model.onnx"), None, console)
        onnx = by_pixels(in_onnx_runtime(Path(folder, "model.onnx").read_bytes()), model, dataset)
        predicted = by_files(opened, written_out(dataset, range(len(dataset)), Path(folder)), console)
    with open_ranks("cpu") as ranks:
        accuracy = evaluate(model, dataset, ranks)
    evaluated = by_pixels(in_torch(model), model, dataset)
    right = 100 * float((predicted.argmax(1) == dataset.labels).mean())
    rows = [compare(name, evaluated, other) for name, other in (("predict", predicted), ("onnx", onnx))]
    cells = [[*row[:-1], f"{row[-1]:.1e}"] for row in rows]
    print(table(["", "images", "same top-1", "greatest difference of a probability"], cells))
    print(f"top-1: evaluate {accuracy.top1:.4f} %, predict {right:.4f} %")
    if args.originals is not None:
        print_originals(opened, args, dataset.variant, console)
    agree = all(same == images and difference <= LIMIT for _, images, same, difference in rows)
    return 0 if agree and abs(accuracy.top1 - right) < 1e-9 else 3


def by_pixels(infer: Infer, model: TrainedModel, dataset: Dataset) -> Probabilities:
    """Of every image of `dataset`, as evaluation loads it."""
    recipe = model.recipe
    sizes = (recipe.eval_image_size, recipe.eval_resize, recipe.eval_batch_size)
    logits = torch.zeros(len(dataset), len(model.classes))
    for batch in EvaluationLoader(dataset, *sizes, shape=recipe.eval_shape):
        logits[batch.sample_ids[batch.mask]] = torch.from_numpy(infer(batch.images.numpy()))[batch.mask]
    return logits.softmax(1).double().numpy()


def by_files(model: OpenModel, files: Sequence[Path], console: Console) -> Probabilities:
    """Of every file, by `predict`. Files that it cannot read are an error."""
    found = np.zeros((len(files), len(model.classes)))
    for row, prediction in enumerate(predict(model, files, len(model.classes), console)):
        assert not prediction.error, prediction
        for candidate in prediction.top:
            found[row, candidate.label] = candidate.probability
    return found


def written_out(dataset: Dataset, sample_ids: Sequence[int], folder: Path) -> list[Path]:
    """The encoded images as files in `folder`."""
    files = [folder / f"{sample_id:07d}.jpg" for sample_id in sample_ids]
    for sample_id, file in zip(sample_ids, files, strict=True):
        file.write_bytes(dataset.read(sample_id))
    return files


def compare(name: str, ours: Probabilities, theirs: Probabilities) -> tuple[str, int, int, float]:
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    return name, len(ours), same, float(np.abs(ours - theirs).max())


def print_originals(model: OpenModel, args: argparse.Namespace, variant: str, console: Console) -> None:
    """Compare photos as they were with the same from their shards, of both splits."""
    originals: list[Path] = []
    stored: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "validation"):
            dataset = open_dataset(args.root, variant, split)
            records = [dataset.read_record(sample_id) for sample_id in range(len(dataset))]
            photos = [args.originals / dataset.classes[record.label] / record.filename for record in records]
            there = [sample_id for sample_id, photo in enumerate(photos) if photo.is_file()]
            Path(folder, split).mkdir()
            originals += [photos[sample_id] for sample_id in there]
            stored += written_out(dataset, there, Path(folder, split))
        if not originals:
            print(f"{args.originals} has no photo of this data")
            return
        before, after = by_files(model, originals, console), by_files(model, stored, console)
    _, images, same, greatest = compare("", before, after)
    mean = float(np.abs(before - after).mean())
    print(
        f"{images} originals and variant {variant}: {same} with the same top-1; probabilities differ by {mean:.4f} in"
    )
    print(f"the mean and by {greatest:.4f} at most")


if __name__ == "__main__":
    sys.exit(main())
