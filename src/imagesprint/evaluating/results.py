"""What a checkpoint came to and what lies behind that: kept in its run by what was judged and how, and in its logs."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.checkpoints.weight_files import checkpoint_hash
from imagesprint.console import Console
from imagesprint.evaluating.evaluation import Outcomes, evaluation_precision
from imagesprint.evaluating.views import View
from imagesprint.files import is_cut, write_text
from imagesprint.images.decoders import decoder_name
from imagesprint.records.dataset import Root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import EVALUATOR, RunLogs
from imagesprint.runs.rows import Count, Epochs, EvaluationRow, Number, Percent, Share, from_json

CALIBRATION_BINS = 15  # as in Guo et al. 2017, "On calibration of modern neural networks", section 4
MOST_PAIRS = 20
MOST_MISTAKES = 24

ClassResult = TypedDict("ClassResult", {"class": str, "num_images": Count, "top1": Percent | None})
Confusion = TypedDict("Confusion", {"class": str, "taken_for": str, "count": Number})
Mistake = TypedDict("Mistake", {"sample_id": Count, "class": str, "taken_for": str, "probability": Share})


class CalibrationBin(TypedDict):
    """Images to whose first class the model gave about the same `probability`, in percent."""

    num_images: Number
    probability: Percent
    top1: Percent


class Details(TypedDict):
    """See `details`."""

    per_class: list[ClassResult]
    confusions: list[Confusion]
    calibration_error: Percent
    calibration: list[CalibrationBin]
    mistakes: list[Mistake]


def details(outcomes: Outcomes, labels: NDArray[np.int32], classes: tuple[str, ...]) -> Details:
    """Plain types. `labels` [N] are the true classes, from 0; figures named in percent are in 0..100.

    per_class: class, num_images, top1 (in percent, None without images), in the order of the labels. confusions: class,
    taken_for, count, the most frequent first. calibration_error: the expected one of Guo et al., in percent.
    calibration: one row a bin that is not empty: num_images, probability and top1 in percent. mistakes: sample_id,
    class, taken_for, probability (0..1), the surest first.
    """
    bins = _calibration(outcomes)
    error = sum(row["num_images"] * abs(row["top1"] - row["probability"]) for row in bins) / len(outcomes)
    wrong = np.flatnonzero(~outcomes.top1)
    surest = wrong[np.argsort(-outcomes.probability[wrong], kind="stable")][:MOST_MISTAKES].tolist()
    return {
        "per_class": _per_class(outcomes, labels, classes),
        "confusions": _confusions(outcomes.predicted[wrong], labels[wrong], classes),
        "calibration_error": error,
        "calibration": bins,
        "mistakes": [
            {
                "sample_id": i,
                "class": classes[labels[i]],
                "taken_for": classes[outcomes.predicted[i]],
                "probability": float(outcomes.probability[i]),
            }
            for i in surest
        ],
    }


def _per_class(outcomes: Outcomes, labels: NDArray[np.int32], classes: tuple[str, ...]) -> list[ClassResult]:
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    right = np.bincount(labels[outcomes.top1], minlength=len(classes)).tolist()
    return [
        {"class": name, "num_images": count, "top1": 100 * good / count if count else None}
        for name, count, good in zip(classes, counts, right, strict=True)
    ]


def _confusions(predicted: NDArray[np.int64], labels: NDArray[np.int32], classes: tuple[str, ...]) -> list[Confusion]:
    pairs, counts = np.unique(labels.astype(np.int64) * len(classes) + predicted, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MOST_PAIRS].tolist()
    return [
        {
            "class": classes[pairs[i] // len(classes)],
            "taken_for": classes[pairs[i] % len(classes)],
            "count": int(counts[i]),
        }
        for i in most
    ]


def _calibration(outcomes: Outcomes) -> list[CalibrationBin]:
    """Bins of equal width, open below: (0, 1/15], (1/15, 2/15], …"""
    number = np.ceil(outcomes.probability * CALIBRATION_BINS).astype(np.int64) - 1
    bins = (number == b for b in range(CALIBRATION_BINS))
    return [
        {
            "num_images": int(inside.sum()),
            "probability": 100 * float(outcomes.probability[inside].mean()),
            "top1": 100 * float(outcomes.top1[inside].mean()),
        }
        for inside in bins
        if inside.any()
    ]


FOLDER = "evaluated"
_FORMAT = 1  # a result of another one is not read
_SEAL: Final = "sha256"  # of the rest; files of earlier versions have none
_EARLIER: Final = {"precision": "fp32", "mean_class_accuracy": 0.0}  # keys that they may lack; see below


class KeptData(TypedDict):
    """What a result was made from: the variant, its validation split, and the variants to choose from."""

    variant: str
    fingerprint: str
    variants: list[str]


class Result(TypedDict):
    """What a checkpoint came to by one view."""

    view: str
    step: Count
    epoch: Epochs
    num_images: Number
    top1: Percent
    top5: Percent
    mean_class_accuracy: Percent
    loss: float
    precision: str
    details: Details
    data: KeptData


def run_of(checkpoint: Path) -> RunDirectory | None:
    """The run that a checkpoint file lies in; None where it lies elsewhere."""
    folder = checkpoint.resolve().parent
    run = RunDirectory(folder.parent)
    return run if folder.name == "checkpoints" and run.recipe_file.exists() else None


class ResultsKept:
    """One JSON file a checkpoint and view in RUN/evaluated: the figures, with the details behind them.

    Its name has a hash over the checkpoint's content, the view, the decoder, the kind of device, PyTorch's version and
    the precision where it is not fp32; inside stands the data's fingerprint. Checkpoints that lie in no run have none.
    """

    def __init__(self, root: Root, device: torch.device) -> None:
        self._root = root
        precision = evaluation_precision(device)
        self._machine = [_FORMAT, decoder_name(), device.type, str(torch.__version__)]
        self._machine += [precision] * (precision != "fp32")  # once there was no other, and its results are still found
        self._data: dict[str, str] = {}

    def find(self, checkpoint: Path, view: View, content: str = "") -> Result | None:
        """What `keep` was given for the same checkpoint, view and data; None where there is nothing.

        `content` is its `checkpoint_hash`, where that is known and the file itself may not be here.
        """
        file = self._file(checkpoint, view, content)
        if file is None or not file.exists():
            return None
        result = read_result(file)
        same = result is not None and result["data"] == self.data(result["data"]["variant"])
        return result if same else None

    def keep(self, checkpoint: Path, view: View, result: Result, content: str = "") -> None:
        """Write `result`. Raises OSError."""
        file = self._file(checkpoint, view, content)
        if file is not None:
            file.parent.mkdir(exist_ok=True)
            row = {"checkpoint": checkpoint.name, **result}
            write_text(file, json.dumps(row | {_SEAL: _seal(row)}) + "\n")

    def data(self, variant: str) -> KeptData | None:
        """What says which images those of a variant are; None where the root has no such variant."""
        if variant not in self._root.variants:
            return None
        if variant not in self._data:
            self._data[variant] = self._root.dataset(variant, "validation").fingerprint
        return {"variant": variant, "fingerprint": self._data[variant], "variants": list(self._root.variants)}

    def _file(self, checkpoint: Path, view: View, content: str = "") -> Path | None:
        run = run_of(checkpoint)
        if run is None:
            return None
        key = json.dumps([*self._machine, view.describe(), content or checkpoint_hash(checkpoint)])
        return run.path / FOLDER / f"{checkpoint.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def read_result(file: Path) -> Result | None:
    """What a file of RUN/evaluated says; None where it is damaged."""
    try:
        content = json.loads(file.read_bytes().decode())
        result = from_json(Result, _EARLIER | content if isinstance(content, dict) else content)
        seal = content.pop(_SEAL, None)
    except (OSError, ValueError, RecursionError):
        return None
    if seal not in (None, _seal(content)) or not _holds_together(result):
        return None
    if "mean_class_accuracy" not in content:  # it follows from the classes, in the same order of operations
        shares = [row["top1"] for row in result["details"]["per_class"] if row["top1"] is not None]
        result["mean_class_accuracy"] = math.fsum(shares) / len(shares)
    return result


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _holds_together(result: Result) -> bool:
    """Whether what is read from the details is there."""
    details = result["details"]
    judged = [row for row in details["per_class"] if row["num_images"]]
    known = all(row["top1"] is not None for row in judged)
    return bool(judged) and known and all(row["sample_id"] < result["num_images"] for row in details["mistakes"])


class EvaluationRecorder:
    """Writes rows as long as `stack` is open; warns, once a run, where that is not possible."""

    def __init__(self, stack: ExitStack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._logs: dict[Path, RunLogs] = {}
        self._read_only: set[Path] = set()

    def look(self, checkpoints: Iterable[Path]) -> None:
        """Look at what the runs of these have, before work is done that could not be recorded. Raises RunError."""
        for run in {run.path: run for run in map(run_of, checkpoints) if run is not None}.values():
            run.evaluations()
            if is_cut(run.evaluations_file):
                self._console.warn(f"{run.evaluations_file}: its last line is cut short and is passed over")

    def record(self, checkpoint: Path, row: EvaluationRow) -> None:
        """Append the `row` of a checkpoint to its run, unless it has the same; nothing where it lies in none."""
        run = run_of(checkpoint)
        if run is None or run.path in self._read_only or _is_known(row, run):
            return
        try:
            if run.path not in self._logs:
                self._logs[run.path] = self._stack.enter_context(RunLogs(run, folder=EVALUATOR))
            self._logs[run.path].evaluation(row)
        except OSError as error:
            self._read_only.add(run.path)
            self._console.warn(f"{run.path} cannot be written ({error.strerror}): the figures are not recorded there")


def _is_known(row: EvaluationRow, run: RunDirectory) -> bool:
    """Whether `run` has a row of the same checkpoint with the same counts; one that lacks a figure is another."""
    return any(replace(known, epoch=row.epoch, loss=row.loss) == row for known in run.evaluations())
