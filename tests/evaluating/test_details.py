import numpy as np
import pytest

from imagesprint.evaluating.evaluation import Outcomes
from imagesprint.evaluating.results import details

CLASSES = ("cat", "dog", "owl")
LABELS = np.array([0, 0, 0, 1, 1], np.int32)


def outcomes(predicted: list[int], probability: list[float]) -> Outcomes:
    right = np.array(predicted) == LABELS
    return Outcomes(right, np.ones(5, np.bool_), np.zeros(5), np.array(predicted), np.array(probability))


def test_classes_confusions_and_mistakes() -> None:
    found = details(outcomes([0, 1, 1, 1, 0], [0.9, 0.6, 0.8, 0.5, 0.7]), LABELS, CLASSES)
    assert found["per_class"] == [
        {"class": "cat", "num_images": 3, "top1": pytest.approx(100 / 3)},
        {"class": "dog", "num_images": 2, "top1": 50},
        {"class": "owl", "num_images": 0, "top1": None},
    ]
    assert found["confusions"] == [
        {"class": "cat", "taken_for": "dog", "count": 2},
        {"class": "dog", "taken_for": "cat", "count": 1},
    ]
    assert [mistake["sample_id"] for mistake in found["mistakes"]] == [2, 4, 1]
    assert found["mistakes"][0] == {"sample_id": 2, "class": "cat", "taken_for": "dog", "probability": 0.8}


def test_calibration_error_by_hand() -> None:
    # 0.95 and 1.0 share the last of 15 bins, 0.61 and 0.65 the tenth, (0.6, 0.667]; 0.34 is alone.
    found = details(outcomes([0, 0, 1, 1, 0], [0.95, 1.0, 0.61, 0.65, 0.34]), LABELS, CLASSES)
    expected = (2 * abs(1 - 0.975) + 2 * abs(0.5 - 0.63) + abs(0 - 0.34)) / 5
    assert found["calibration_error"] == pytest.approx(100 * expected)
    assert [row["num_images"] for row in found["calibration"]] == [1, 2, 2]


def test_a_model_that_is_always_right_and_sure() -> None:
    found = details(outcomes([0, 0, 0, 1, 1], [1.0] * 5), LABELS, CLASSES)
    assert found["calibration_error"] == 0
    assert (found["confusions"], found["mistakes"]) == ([], [])
