"""Counting, over all ranks, how often another record stood in for a bad one, and telling of the first."""

import torch

from imagesprint.console import Console
from imagesprint.loading.loader import Loader
from imagesprint.runs.ranks import Ranks

_SHOWN_BYTES = 1000  # of the first one's message


class BadRecords:
    """What the ranks' loaders passed over; each rank calls `count` at the same steps."""

    def __init__(self, loader: Loader, ranks: Ranks, console: Console) -> None:
        self._loader, self._ranks, self._console = loader, ranks, console
        self._counted = 0
        self._told = False

    def count(self) -> int:
        """Return how many there were on all ranks since the last call; warns of the first of the command."""
        if self._loader.recipe.bad_records == "stop":
            return 0
        counts = self._ranks.gather(self._loader.bad_records - self._counted)
        self._counted = self._loader.bad_records
        if any(counts) and not self._told:
            self._told = True
            first = self._from_rank(next(rank for rank, count in enumerate(counts) if count))
            self._console.warn(f"bad record: {first}; another stands in for it, and for more that may come")
        return sum(counts)

    def _from_rank(self, rank: int) -> str:
        """Return the first message of one rank, on every rank."""
        text = torch.zeros(_SHOWN_BYTES, dtype=torch.int64, device=self._ranks.device)
        if rank == self._ranks.rank:
            message = self._loader.first_bad_record.encode()[:_SHOWN_BYTES]
            text[: len(message)] = torch.tensor(list(message))
        self._ranks.sum(text)
        return bytes(self._ranks.read(text)).rstrip(b"\0").decode(errors="replace")
