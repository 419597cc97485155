"""All ranks end after the same step, whichever of them is told to stop."""

from collections import deque

import torch
from torch import Tensor

from imagesprint.runs.ranks import Ranks
from imagesprint.runs.signals import STOPPING, StopSignals

# On a GPU a vote is read two steps late: its sum has long arrived then, and the host need not wait for the device.
_GPU_LAG = 2


class StopVote:
    """Sums over the ranks, once a step, the signals that they noted in `signals`.

    A rank that noted one and waits for others in vain, here or elsewhere, soon gives up (`RankWatch.heed`).
    """

    def __init__(self, ranks: Ranks, signals: StopSignals) -> None:
        self._ranks, self._signals = ranks, signals
        self._on_gpu = ranks.device.type == "cuda"
        self._lag = _GPU_LAG if self._on_gpu else 0
        self._votes: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        ranks.watch.heed(signals)

    def __call__(self) -> int:
        """Vote for stopping by the signal that came, if any. Every rank calls it after every step.

        Returns the same on every rank: the signal for which all end after this step, or 0.
        """
        if self._ranks.world_size == 1:
            return self._signals.number
        self._votes.append(self._cast(self._signals.number))
        if len(self._votes) <= self._lag:
            return 0
        counts, ready = self._votes.popleft()
        if ready is not None:
            self._ranks.await_device(ready)
        agreed = next((int(signal) for signal, count in zip(STOPPING, counts.tolist(), strict=True) if count), 0)
        if agreed:
            self._ranks.watch.heed(None)  # saving takes the time that it needs
        return agreed

    def _cast(self, number: int) -> tuple[Tensor, torch.cuda.Event | None]:
        votes = torch.tensor([signal == number for signal in STOPPING], dtype=torch.int32, pin_memory=self._on_gpu)
        if not self._on_gpu:
            self._ranks.sum(votes)
            return votes, None
        summed = votes.to(self._ranks.device, non_blocking=True)
        self._ranks.sum(summed)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        counts = torch.empty_like(votes, pin_memory=True).copy_(summed, non_blocking=True)
        ready.record()
        return counts, ready
