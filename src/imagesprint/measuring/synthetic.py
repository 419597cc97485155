"""Batches of noise: what a step can do where loading costs nothing."""

import itertools
from collections.abc import Iterator

import torch

from imagesprint.loading.batch import Batch
from imagesprint.recipes.recipe import Phase


def synthetic_batches(phase: Phase, num_classes: int, device: torch.device) -> Iterator[Batch]:
    """Return micro-batches of random pixels and labels without end.

    They lie in host memory, pinned for a GPU, as the loader's do: a step copies them as it does in training.
    """
    generator = torch.Generator().manual_seed(0)
    rows, size, pin = phase.micro_batch, phase.image_size, device.type == "cuda"

    def random(limit: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        values = torch.randint(limit, shape, generator=generator, dtype=dtype)
        return values.pin_memory() if pin else values

    made = [
        Batch(
            images=random(256, (rows, size, size, 3), torch.uint8),
            labels=random(num_classes, (rows,), torch.int64),
            sample_ids=torch.arange(rows),
            mask=torch.ones(rows, dtype=torch.bool),
            step=0,
        )
        for _ in range(2)
    ]
    return itertools.cycle(made)
