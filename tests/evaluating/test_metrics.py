import torch

from imagesprint.evaluating.metrics import correct_counts


def test_first_and_among_the_first_five() -> None:
    logits = torch.tensor([[9, 8, 7, 6, 5, 4, 3], [3, 4, 5, 6, 7, 8, 9.0]])
    for labels, expected in (([0, 6], [2, 2]), ([1, 0], [0, 1]), ([4, 2], [0, 2]), ([5, 1], [0, 0])):
        assert correct_counts(logits, torch.tensor(labels)).tolist() == expected


def test_padding_does_not_count() -> None:
    logits = torch.eye(6)
    mask = torch.tensor([True, True, False, False, True, False])
    assert correct_counts(logits, torch.arange(6), mask).tolist() == [3, 3]


def test_fewer_than_five_classes() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    assert correct_counts(logits, torch.tensor([0, 1])).tolist() == [1, 2]
