"""The verdict in words: a check for each stage, the narrowest first."""

from collections.abc import Sequence
from typing import Final

from imagesprint.measuring.doctor.check import Check, ok, warning
from imagesprint.measuring.limits.advice import Setting, advise
from imagesprint.measuring.limits.figures import Figures
from imagesprint.measuring.limits.verdict import Limit, gain

WORTH_SAYING: Final = 0.05  # a gain; what is smaller needs no doing

_SUBJECTS: Final = {
    "read": "reading and checking records feeds",
    "decode": "decoding feeds",
    "copy": "copies to the device bring",
    "compute": "the step itself does",
}


def limit_checks(figures: Figures, limits: Sequence[Limit], setting: Setting) -> list[Check]:
    """Return a check for each of `limits` that takes any time, in their order.

    One that would gain more than WORTH_SAYING is a warning, but for `compute`, whose turn it is to be the narrowest.
    """
    return [_check(figures, limit, setting) for limit in limits if limit.seconds > 0]


def _check(figures: Figures, limit: Limit, setting: Setting) -> Check:
    name = f"phase {setting.phase}: {limit.name}"
    if limit.gain < WORTH_SAYING:
        return ok(name, _detail(figures, limit))
    advice = advise(limit.name, figures, setting)
    hint = "; or ".join(_with_gain(figures, each.what, each.saved) for each in advice)
    if limit.name == "compute":
        return ok(name, f"{_detail(figures, limit)}; at twice the speed it would be {limit.gain:+.0%}", hint)
    return warning(name, f"{_detail(figures, limit)}; were it free it would be {limit.gain:+.0%}", hint)


def _with_gain(figures: Figures, what: str, saved: float | None) -> str:
    return what if saved is None else f"{what}: {gain(figures.wall, saved):+.0%}"


def _detail(figures: Figures, limit: Limit) -> str:
    overall = f"training does {figures.images / figures.wall:,.0f}"
    if limit.name in _SUBJECTS:
        return f"{_SUBJECTS[limit.name]} {figures.images / limit.seconds:,.0f} images/s, {overall}"
    share = f"{limit.seconds / figures.wall:.0%} of the time ({1e3 * limit.seconds:,.1f} ms a step)"
    if limit.name == "straggler":
        return f"the others wait {share} for rank {figures.straggling_rank}"
    if limit.name == "reduction":
        return f"ranks wait {share} for sums on their way and for one another"
    if limit.name == "checkpoint":
        writing = f"; writing goes on beside it for {1e3 * figures.checkpoint_writing:,.1f} ms a step"
        return f"training stands still {share} for checkpoints{writing}"
    return f"training stands still {share} for evaluations"
