"""What lies behind an accuracy: classes, confusions, calibration and the worst mistakes."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from imagesprint.evaluating.evaluation import Outcomes
from imagesprint.runs.rows import Count, Number, Percent, Share

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
