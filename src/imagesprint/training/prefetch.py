"""Copies to a GPU, one batch ahead and beside its computing."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from imagesprint.loading.batch import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """`batches` with their tensors on `device`, each valid until the next is asked for, as before.

    On a GPU they are read and copied one ahead, into two sets of tensors in turn, on a stream of their own: it waits
    until the batch before the last is done with. Before `batches` is asked for another, the host waits for the copy
    of the last to end, because its (pinned) memory is filled anew then; so the host is at most two micro-batches
    ahead of the GPU, which never waits for it.
    """
    return batches if device.type == "cpu" else _copied_ahead(batches, device)


def _copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # else a core would spin that could decode
    slots: list[Batch | None] = [None, None]
    previous: Batch | None = None
    for number, batch in enumerate(batches):
        copy = slots[number % 2] = _like(batch, slots[number % 2], device)
        stream.wait_stream(torch.cuda.current_stream(device))  # which has used this slot last
        with torch.cuda.stream(stream):
            for source, target in zip(_tensors(batch), _tensors(copy), strict=True):
                target.copy_(source, non_blocking=True)
        copied.record(stream)
        if previous is not None:
            yield previous
        copied.synchronize()
        previous = copy
    if previous is not None:
        yield previous


def _like(batch: Batch, slot: Batch | None, device: torch.device) -> Batch:
    """A batch on `device` with room for `batch`: `slot` where its shape fits."""
    if slot is not None and slot.images.shape == batch.images.shape:
        return replace(slot, step=batch.step)
    images, labels, sample_ids, mask = (torch.empty_like(tensor, device=device) for tensor in _tensors(batch))
    return Batch(images, labels, sample_ids, mask, batch.step)


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    return batch.images, batch.labels, batch.sample_ids, batch.mask
