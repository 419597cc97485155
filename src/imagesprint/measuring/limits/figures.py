"""What the verdict is made from: how long each stage of a training takes."""

from dataclasses import dataclass
from typing import Final

STAGES: Final = ("read", "decode", "copy", "compute", "reduction", "straggler", "checkpoint", "evaluation")
LOADING: Final = ("read", "decode")
WITHIN_STEP: Final = ("compute", "reduction", "straggler")
PAUSES: Final = ("checkpoint", "evaluation")


@dataclass(frozen=True)
class Figures:
    """Seconds a step of `images` images, on a typical rank, as they were while all went on together.

    `step` is the time from one step to the next, pauses left out. It is made up of what the device stood still for
    (`data_wait` for batches that were not loaded yet, `copy_wait` for those that were not copied), of `straggler`, by
    which rank `straggling_rank` of several came later than the others, of `reduction`, the rest of the time in which
    they waited for one another and for sums on their way, and of the work itself.

    Beside the step: `load`, for which the loader works on a step's batches, `read_share` of it on reading and checking
    records, `jpeg_share` on what libjpeg does; `copy`, for which they are copied. Between steps: `checkpoint` and
    `evaluation`; `checkpoint_writing` goes on beside them. `undisturbed`, where it was measured, is what a step takes
    where loading costs nothing: on a CPU, which both share, less than what it takes beside it.
    """

    images: float
    step: float
    load: float
    read_share: float = 0.0
    jpeg_share: float = 0.0
    copy: float = 0.0
    data_wait: float = 0.0
    copy_wait: float = 0.0
    straggler: float = 0.0
    straggling_rank: int = 0
    reduction: float = 0.0
    checkpoint: float = 0.0
    checkpoint_writing: float = 0.0
    evaluation: float = 0.0
    undisturbed: float | None = None

    @property
    def wall(self) -> float:
        """Return the seconds from one step to the next with all pauses."""
        return self.step + self.checkpoint + self.evaluation

    @property
    def busy(self) -> float:
        """Return the seconds of a step in which the device waited for no data."""
        return max(0.0, self.step - self.data_wait - self.copy_wait)

    @property
    def read(self) -> float:
        """Return what of `load` is reading and checking records."""
        return self.load * self.read_share

    @property
    def decode(self) -> float:
        """Return the rest of `load`: decoding, cropping and resizing."""
        return self.load * (1 - self.read_share)

    @property
    def compute(self) -> float:
        """Return the seconds that the step itself works."""
        return max(0.0, self.busy - self.straggler - self.reduction)

    def seconds_of(self, stage: str) -> float:
        """Return the seconds a step of one of STAGES."""
        seconds: float = getattr(self, stage)
        return seconds
