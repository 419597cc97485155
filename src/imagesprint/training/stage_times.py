"""How long each stage of the training took in a window of logged steps, on all ranks."""

import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from imagesprint.images.decoding import STAGES
from imagesprint.loading.loader import Loader
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import RankSeconds, StageSeconds
from imagesprint.training.prefetch import DeviceBatches
from imagesprint.training.step import TrainingStep

PAUSES: Final = ("checkpoint", "evaluation")
_COUNTED: Final = ("load", *STAGES, "copy", "copy_wait")  # of each rank, since the loader began
_DIGITS: Final = 6  # of the seconds that are logged


class StageTimes:
    """What `Meter` adds to a row of metrics.jsonl; from it `imagesprint doctor RUN` finds the narrowest stage."""

    def __init__(self, loader: Loader, batches: DeviceBatches, step: TrainingStep, ranks: Ranks) -> None:
        self._loader, self._batches, self._step, self._ranks = loader, batches, step, ranks
        self._pauses = dict.fromkeys(PAUSES, 0.0)
        self._counts = self._counted()

    def _counted(self) -> list[float]:
        copies = self._batches.copies
        return [self._loader.load_seconds, *(self._loader.stages * 1e-9).tolist(), copies.copying, copies.waited]

    def start_window(self) -> None:
        """Forget what ranks waited for since the last row; what loaders and copies did meanwhile counts."""
        self._step.data_waits.take()
        self._step.rank_waits.take()

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Count what is done inside as one of PAUSES, for the next row."""
        began = time.perf_counter()
        yield
        self._pauses[name] += time.perf_counter() - began

    def row(self, seconds: float) -> tuple[StageSeconds, RankSeconds]:
        """Return the `stages` and the `ranks` of a window of `seconds` that ends here, in seconds. Every rank calls it.

        `ranks` has for each rank in order its `own` time, without that in which it waited for others, and how long of
        it its device stood still for data (`data_wait`). `stages` has the median rank's `load`, how long its loader
        worked for these steps; how its decoder's threads divide that (`read`, `crc`, `jpeg`, `resize`, see
        `Decoder.stages`) and how many `threads` they are; `copy`, what copies to the device took, and `copy_wait`, how
        long the host waited for them; and, of this rank, since the row before: how long training stood still for
        `checkpoint` and `evaluation`.
        """
        counts, before = self._counted(), self._counts
        self._counts = counts
        since = [count - former for count, former in zip(counts, before, strict=True)]
        mine = [seconds - self._step.rank_waits.take(), self._step.data_waits.take(), *since]
        own, data_wait, *others = zip(*self._of_all(mine), strict=True)
        stages = dict(zip(_COUNTED, map(statistics.median_low, others), strict=True)) | self._pauses
        self._pauses = dict.fromkeys(PAUSES, 0.0)
        rounded = {name: round(value, _DIGITS) for name, value in stages.items()}
        return StageSeconds(**rounded, threads=self._ranks.threads), RankSeconds(_rounded(own), _rounded(data_wait))

    def _of_all(self, mine: list[float]) -> list[list[float]]:
        """The figures of each rank."""
        if self._ranks.world_size == 1:
            return [mine]
        table = torch.zeros(self._ranks.world_size, len(mine), dtype=torch.float64)
        table[self._ranks.rank] = torch.tensor(mine, dtype=torch.float64)
        table = table.to(self._ranks.device)
        self._ranks.sum(table)
        return self._ranks.read(table)


def _rounded(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(value, _DIGITS) for value in seconds)
