"""Runs that repeat an experiment: which they are, mean and spread of their figures, and whether two experiments differ.

Runs of one recipe, but for its seed, are repetitions. Their spread is the standard deviation of a sample (n − 1).
Whether the means of two experiments differ by more than that spread explains is asked by Welch's interval, which takes
neither the same number of runs nor the same spread for granted (B. L. Welch, Biometrika 34, 1947). No torch, no scipy.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Final

from imagesprint.report.run_record import RunRecord
from imagesprint.runs.rows import EvaluationRow, classes_differ

CONFIDENCE: Final = 0.95
FEW: Final = 3  # repetitions below which an interval says little: of two the true spread may be 32 times the seen one
_INTERVALS: Final = 400  # of Simpson's rule: the quantile is right to 1e-6


@dataclass(frozen=True)
class Figure:
    """What runs are compared by. `format` writes a value; `unit` is what a difference is in."""

    key: str
    title: str
    unit: str
    format: str = ".2f"


FIGURES: Final = (
    Figure("top1", "top-1, %", "points of top-1"),
    Figure("mean_class_accuracy", "mean of classes, %", "points of the mean of classes"),
    Figure("top5", "top-5, %", "points of top-5"),
    Figure("loss", "loss", "in validation loss", ".4f"),
    Figure("best_top1", "best top-1, %", "points of best top-1"),
    Figure("cross_entropy", "training loss", "in training loss", ".4f"),
    Figure("images_per_second", "images/s", "images/s", ",.0f"),
    Figure("wall_seconds", "wall time, s", "s of wall time", ",.0f"),
)

EVALUATED: Final = ("top1", "mean_class_accuracy", "top5", "loss")  # those that a row of evaluations.jsonl has
ACCURACIES: Final = ("top1", "mean_class_accuracy")  # by which recipes are compared first


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation and ends of `n` values. `sd` is None for a single one."""

    n: int
    mean: float
    sd: float | None
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        n = len(values)
        mean = math.fsum(values) / n
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
        return cls(n, mean, sd, min(values), max(values))

    def text(self, form: str) -> str:
        """For people, each number as `form` has it."""
        return f"{self.mean:{form}}" + ("" if self.sd is None else f" ± {self.sd:{form}}")


@dataclass(frozen=True)
class Experiment:
    """Runs of one recipe. `epoch` is the last at which all were evaluated; None where there is none. `values` has of
    each figure a value a run, in their order; evaluations are those at `epoch`.
    """

    name: str
    runs: tuple[tuple[str, RunRecord], ...]
    epoch: float | None
    values: dict[str, list[float]]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.recipe.seed for _, record in self.runs)

    @property
    def spreads(self) -> dict[str, Spread]:
        """Of each figure that all runs have."""
        return {key: Spread.of(values) for key, values in self.values.items()}


@dataclass(frozen=True)
class Contrast:
    """By how much the mean of a figure of experiment `b` is above that of `a`, and the ends of its interval at
    CONFIDENCE: None where one of them has no spread. `exceeds` is whether that lies on one side of zero.
    """

    a: str
    b: str
    figure: Figure
    difference: float
    runs: tuple[int, int]
    interval: tuple[float, float] | None

    @property
    def exceeds(self) -> bool | None:
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0

    @property
    def sentence(self) -> str:
        """In plain words."""
        form, unit = self.figure.format, self.figure.unit
        side = "above" if self.difference >= 0 else "below"
        said = f"{self.b} is {abs(self.difference):{form}} {unit} {side} {self.a}"
        if self.interval is None:
            return f"{said}; of a single run, or of runs that are all alike, there is no spread to hold that against"
        verdict = "more than the seeds' spread explains" if self.exceeds else "no more than the seeds' spread explains"
        low, high = self.interval
        said += f": {verdict} (95% interval {low:+{form}} to {high:+{form}}, {self.runs[0]} and {self.runs[1]} runs)"
        return said + ("; of so few runs that says little" if min(self.runs) < FEW else "")


def experiments(runs: Sequence[tuple[str, RunRecord]]) -> list[Experiment]:
    """The named runs by their recipes, in the order in which those come first."""
    groups: list[list[tuple[str, RunRecord]]] = []
    for name, record in runs:
        recipe = replace(record.recipe, seed=0)
        same = next((group for group in groups if replace(group[0][1].recipe, seed=0) == recipe), None)
        if same is None:
            groups.append([(name, record)])
        else:
            same.append((name, record))
    return [_experiment(title, group) for title, group in zip(_titles(groups), groups, strict=True)]


def _titles(groups: Sequence[Sequence[tuple[str, RunRecord]]]) -> list[str]:
    """The recipes' names or, where two have the same, what the names of their runs begin with: plain-0, plain-1."""
    recipes = [group[0][1].recipe.name for group in groups]
    begins = [beginning([name for name, _ in group]) for group in groups]
    firsts = [group[0][0] for group in groups]
    return next((titles for titles in (recipes, begins) if len(set(titles)) == len(titles)), firsts)


def beginning(runs: Sequence[str]) -> str:
    """What all names have in common, without the word and the marks that a seed's number comes behind."""
    if len(runs) == 1:
        return runs[0]
    shared = commonprefix(runs)  # noqa: RUF071 (characters are meant)
    return re.sub(r"[-_./]*(seed[-_]?\d*)?$", "", shared) or runs[0]


def _experiment(title: str, runs: Sequence[tuple[str, RunRecord]]) -> Experiment:
    records = [record for _, record in runs]
    ends = _common_evaluations(records)
    values = {key: [getattr(row, key) for row in ends] for key in EVALUATED if ends}
    values = {key: list(map(float, found)) for key, found in values.items() if None not in found}
    if ends:
        step = ends[0].step
        values["best_top1"] = [max(row.top1 for row in one.evaluations if row.step <= step) for one in records]
    values["cross_entropy"] = [record.last.cross_entropy for record in records]
    values["images_per_second"] = [
        sum(row.images_per_second * row.seconds for row in one.metrics) / one.train_seconds for one in records
    ]
    values["wall_seconds"] = [record.wall_seconds for record in records]
    return Experiment(title, tuple(runs), ends[0].epoch if ends else None, values)


def _common_evaluations(records: Sequence[RunRecord]) -> list[EvaluationRow]:
    """Each run's evaluation at the last step at which all were; none where there is no such step."""
    found = [{row.step: row for row in record.evaluations} for record in records]
    steps = set.intersection(*(set(rows) for rows in found))
    return [rows[max(steps)] for rows in found] if steps else []


def told(all_of_them: Sequence[Experiment]) -> list[Figure]:
    """What people are shown of the experiments: the figures that they have, but the mean of the classes only where it
    says anything beside top-1.
    """
    both = [[one.values.get(key, []) for key in ACCURACIES] for one in all_of_them]
    differ = any(classes_differ(*pair) for one in both for pair in zip(*one, strict=False))  # one may be missing
    hidden = set() if differ else {"mean_class_accuracy"}
    return [each for each in FIGURES if each.key not in hidden and any(each.key in one.values for one in all_of_them)]


def contrasts(all_of_them: Sequence[Experiment]) -> list[Contrast]:
    """Each experiment against the first, by each figure that both have."""
    first, *others = all_of_them
    return [
        _contrast(first, other, figure)
        for other in others
        for figure in FIGURES
        if figure.key in first.values and figure.key in other.values
    ]


def _contrast(a: Experiment, b: Experiment, figure: Figure) -> Contrast:
    ours, theirs = a.spreads[figure.key], b.spreads[figure.key]
    difference = theirs.mean - ours.mean
    margin = welch_margin(ours, theirs)
    interval = None if margin is None else (difference - margin, difference + margin)
    return Contrast(a.name, b.name, figure, difference, (ours.n, theirs.n), interval)


def welch_margin(a: Spread, b: Spread) -> float | None:
    """Half the width of Welch's interval of the difference of two means; None where there is no spread to go by."""
    if a.sd is None or b.sd is None or not math.isfinite(a.sd + b.sd):
        return None
    of_a, of_b = a.sd**2 / a.n, b.sd**2 / b.n
    if of_a + of_b == 0:
        return None
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (a.n - 1) + of_b**2 / (b.n - 1))
    return t_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(of_a + of_b)


def t_quantile(probability: float, freedom: float) -> float:
    """Below which Student's t of `freedom` (≥ 1) degrees lies with `probability`, which is in 0.5..0.999."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)

    def density(angle: float) -> float:  # of t = tan(angle) · √freedom, so that the tails are short
        return scale * math.sqrt(freedom) * float(math.cos(angle) ** (freedom - 1))

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 + _simpson(density, middle) < probability:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _simpson(function: Callable[[float], float], end: float) -> float:
    """The integral from 0 to `end`."""
    width = end / _INTERVALS
    inner = sum((4 if index % 2 else 2) * function(index * width) for index in range(1, _INTERVALS))
    return (function(0.0) + inner + function(end)) * width / 3
