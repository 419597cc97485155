"""A copy of a checkpoint's tensors on the host, so that training goes on while they are written."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_Kind = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Snapshot:
    """Host memory for one checkpoint, used again for the next: fresh memory takes many times longer to fill.

    `expected` are tensors of the sizes that the first one will have; memory for others is added as they come. On a GPU
    it is pinned, and the copies run on a stream of their own.
    """

    def __init__(self, expected: Iterable[Tensor], device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._free: dict[_Kind, list[Tensor]] = defaultdict(list)
        for tensor in expected:
            self._free[_kind(tensor)].append(self._buffer(tensor).zero_())

    @torch.no_grad()
    def take(self, content: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
        """Copy `content`, in which the tensors may change after this returns.

        Returns the copy, valid until the next one is taken, and a function that waits until it is complete.
        """
        used: list[Tensor] = []

        def copy(tensor: Tensor) -> Tensor:
            free = self._free[_kind(tensor)]
            used.append(free.pop() if free else self._buffer(tensor))
            return used[-1].copy_(tensor.detach(), non_blocking=True)

        if self._stream is None:
            copied, wait = torch.utils._pytree.tree_map_only(Tensor, copy, content), _nothing
        else:
            current = torch.cuda.current_stream(self._stream.device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                copied = torch.utils._pytree.tree_map_only(Tensor, copy, content)
                wait = self._stream.record_event().synchronize
            current.wait_stream(self._stream)  # the next step must not overtake it; the host goes on at once
        for buffer in used:
            self._free[_kind(buffer)].append(buffer)
        return copied, wait

    def _buffer(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, device="cpu", pin_memory=self._stream is not None, requires_grad=False)


def _kind(tensor: Tensor) -> _Kind:
    return tensor.shape, tensor.stride(), tensor.dtype


def _nothing() -> None:
    pass
