"""Where an eager step's time goes, seen from outside of it: by hooks on the network and on the optimizer."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import torch
from torch.utils.hooks import RemovableHandle

from imagesprint.training.state import TrainingState
from imagesprint.training.stopwatch import Mark, Stopwatch

# input: clearing the sums, copying, normalising. backward: with the loss. reduction: from the last gradient to the
# optimizer. update: the optimizer and all that follows it.
PARTS: Final = ("input", "forward", "backward", "reduction", "update")


def time_parts(step: Callable[[], object], steps: int, state: TrainingState, device: torch.device) -> dict[str, float]:
    """Call `step`, an eager step of `state`, `steps` times; return the mean seconds of each of PARTS in one."""
    totals = dict.fromkeys(PARTS, 0.0)
    for _ in range(steps):
        for part, seconds in _Watch(state, device).run(step).items():
            totals[part] += seconds / steps
    return totals


class _Watch:
    """One step with marks in it, each named after the part that begins there."""

    def __init__(self, state: TrainingState, device: torch.device) -> None:
        self._state = state
        self._stopwatch = Stopwatch(device)
        self._marks: list[tuple[str, Mark]] = []

    def run(self, step: Callable[[], object]) -> dict[str, float]:
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            self._begin("input")
            step()
        self._begin("")
        self._stopwatch.wait()
        return self._seconds()

    def _hooks(self) -> list[RemovableHandle]:
        network, optimizer = self._state.network, self._state.optimizer
        return [
            network.register_forward_pre_hook(lambda *_: self._begin("forward")),
            network.register_forward_hook(lambda *_: self._begin("backward")),
            *(
                parameter.register_post_accumulate_grad_hook(lambda _: self._gradient())  # type: ignore[no-untyped-call]
                for parameter in network.parameters()
                if parameter.requires_grad
            ),
            optimizer.register_step_pre_hook(lambda *_: self._begin("update")),
        ]

    def _begin(self, part: str) -> None:
        self._marks.append((part, self._stopwatch.mark()))

    def _gradient(self) -> None:
        """The backward pass ends with the last gradient, whichever that is."""
        if self._marks[-1][0] == "reduction":
            self._marks.pop()
        self._begin("reduction")

    def _seconds(self) -> dict[str, float]:
        seconds = dict.fromkeys(PARTS, 0.0)
        for (part, start), (following, end) in itertools.pairwise(self._marks):
            # Between two micro-batches nothing is reduced: the next one is brought in.
            part = "input" if (part, following) == ("reduction", "forward") else part
            seconds[part] += self._stopwatch.seconds(start, end)
        return seconds
