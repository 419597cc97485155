"""The rows of a run's files: what each may hold, and how JSON becomes one. A row is what `asdict` makes of it.

Keys that were added later have a default, so that what an earlier version wrote is read; unknown ones are passed over,
so that what a later version wrote is.
"""

import reprlib
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")

# Numbers with what they may be, the ends included. None of these is NaN or infinite.
Count = Annotated[int, (0, 2**63 - 1)]
Number = Annotated[int, (1, 2**63 - 1)]
Percent = Annotated[float, (0, 100)]
Share = Annotated[float, (0, 1)]
Figure = Annotated[float, (0, sys.float_info.max)]
Epochs = Annotated[float, (0, 2**31)]
Speed = Annotated[float, (0, 1e12)]  # images a second
Seconds = Annotated[float, (0, 1e12)]
Window = Annotated[float, (1e-9, 1e12)]  # seconds by which something is divided
Difference = Annotated[float, (-1e12, 1e12)]  # of two clocks' seconds, and so now and then a little below 0

_NAMES: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class StageSeconds:
    """What the stages of a window of steps took.

    Of the median rank: how long its loader worked for these steps (`load`), for how long of that it waited for records
    that a store had yet to send (`storage`), how its decoder's `threads` divide the rest (`read`, `crc`, `jpeg`,
    `resize`: see `Decoder.stages`), what copies to the device took (`copy`) and how long the
    host waited for them (`copy_wait`). Of rank 0, since the row before: how long training stood still for `checkpoint`
    and `evaluation`, and how long checkpoints were written beside it.
    """

    load: Difference
    read: Difference = 0.0
    crc: Difference = 0.0
    jpeg: Difference = 0.0
    resize: Difference = 0.0
    copy: Difference = 0.0
    copy_wait: Difference = 0.0
    checkpoint: Difference = 0.0
    evaluation: Difference = 0.0
    threads: Number = 1
    checkpoint_writing: Difference = 0.0
    storage: Difference = 0.0


@dataclass(frozen=True)
class RankSeconds:
    """For each rank in order its `own` time, without that in which it waited for others, and how long of it its device
    stood still for data."""

    own: tuple[Difference, ...]
    data_wait: tuple[Difference, ...]

    def __post_init__(self) -> None:
        if not self.own or len(self.own) != len(self.data_wait):
            raise ValueError(f"ranks: own has {len(self.own)} figures, data_wait {len(self.data_wait)}")


@dataclass(frozen=True)
class MetricsRow:
    """A line of metrics.jsonl: what the steps since the one before did, up to `step`.

    `cross_entropy` is the mean of the recipe's own loss, whichever that is (its name is older than the others), with
    smoothing, class weights and mixed targets, of the steps' images as the network saw them. `l2` is what weight decay
    adds to it after the last step (`training.optimizer.l2_loss`), `loss` both together. `top1` and `top5` are of the
    training images, `lr` of the last step; `data_wait` is the share of the `seconds` that was spent waiting for data;
    `overflows` counts the steps whose fp16 gradients overflowed. `stages` and `ranks` are None where they were not
    logged yet.
    """

    step: Count
    epoch: Epochs
    phase: Count
    loss: Figure
    cross_entropy: Figure
    l2: Figure
    top1: Percent
    top5: Percent
    lr: Figure
    batch_size: Number
    image_size: Number
    images_per_second: Speed
    data_wait: Share
    seconds: Window
    overflows: Count = 0
    stages: StageSeconds | None = None
    ranks: RankSeconds | None = None

    @property
    def before(self) -> int:
        """The step that its first one follows, as its number of images says."""
        return self.step - round(self.images_per_second * self.seconds / self.batch_size)


@dataclass(frozen=True)
class EvaluationRow:
    """A line of evaluations.jsonl: what a checkpoint came to. `loss` is no number where the weights gave none.

    `checkpoint` is its path within the run, None where none was written at this step. `precision` is the arithmetic of
    the evaluation; rows of before lack it, all of which were made in fp32. `mean_class_accuracy` is the mean of the
    classes' top-1; None in rows of before.
    """

    step: Count
    epoch: Epochs
    num_images: Number
    top1: Percent
    top5: Percent
    loss: float
    checkpoint: str | None
    precision: str = "fp32"
    mean_class_accuracy: Percent | None = None


def classes_differ(top1: float, mean_class_accuracy: float | None) -> bool:
    """Whether the mean of the classes' accuracies says anything beside top-1, to which it is equal where all classes
    have as many images: to two digits, as people see them.
    """
    return mean_class_accuracy is not None and f"{mean_class_accuracy:.2f}" != f"{top1:.2f}"


def of_classes(top1: float, mean_class_accuracy: float | None) -> str:
    """For people, behind a top-1: the mean of the classes where it says anything beside that, else nothing."""
    return f", mean of classes {mean_class_accuracy:.2f}%" if classes_differ(top1, mean_class_accuracy) else ""


@dataclass(frozen=True)
class Began:
    """A line of commands.jsonl: a `train` command that goes on from `step`.

    `device` is the main rank's, `threads` are the CPU threads of each rank; `decoder` is as `describe_decoder` says it.
    Rows of before lack these three: they are empty. `warnings` are those of the command until here. `data` is the ROOT
    it is trained on, an absolute path or a URL; empty in rows of before.
    """

    began: str
    step: Count
    ranks: Number = 1
    process: Count = 0
    host: str = ""
    device: str = ""
    threads: Count = 0
    decoder: str = ""
    warnings: tuple[str, ...] = ()
    data: str = ""


@dataclass(frozen=True)
class Ended:
    """A line of commands.jsonl: it ended at `step`, for `reason`; `warnings` are those since it began."""

    ended: str
    step: Count
    reason: str
    warnings: tuple[str, ...] = ()


Command = Began | Ended


@dataclass(frozen=True)
class Interruption:
    """Why a command ended before the run was done, and the `step` that the next went on from.

    `time` is when, None where it was killed and could not say.
    """

    reason: str
    step: Count
    time: str | None = None


@dataclass(frozen=True)
class PartTime:
    """What `count` starts, steps of a phase, evaluations or the like took, beside what was planned."""

    part: str
    count: Count
    planned_seconds: Difference
    seconds: Difference


@dataclass(frozen=True)
class PlanComparison:
    """The plan of a command beside what it took; `origin` says for people where the plan's figures are from."""

    origin: str
    planned_seconds: Difference
    seconds: Difference
    parts: tuple[PartTime, ...]


@dataclass(frozen=True)
class RunResult:
    """result.json, and what `train --json` prints: see `training.training.train`; `checkpoint` is a path in the run,
    `ended_early` whether the recipe's patience ended it before its last step. `mean_class_accuracy` is None beside a
    top1 in a file of before.
    """

    steps: Count
    epochs: Epochs
    images_per_second: Speed
    wall_seconds: Seconds
    compile_seconds: Seconds = 0.0
    bad_records: Count = 0
    overflows: Count = 0
    interruptions: tuple[Interruption, ...] = ()
    top1: Percent | None = None
    top5: Percent | None = None
    loss: float | None = None
    plan: PlanComparison | None = None
    checkpoint: str = ""
    ended_early: bool = False
    mean_class_accuracy: Percent | None = None

    def __post_init__(self) -> None:
        figures = {"top1": self.top1, "top5": self.top5, "loss": self.loss}
        missing = [name for name, figure in figures.items() if figure is None]
        if 0 < len(missing) < len(figures):
            raise ValueError(f"{' and '.join(missing)} is missing beside the others of an evaluation")


def read_command(value: Any) -> Command:
    """The line of commands.jsonl that `value` is. Raises ValueError."""
    if isinstance(value, dict) and "began" in value:
        return from_json(Began, value)
    return from_json(Ended, value)


def from_json(kind: type[T], value: Any, name: str = "") -> T:
    """`value`, as json.loads gives it, as a `kind`: a dataclass or TypedDict of what is declared here, or one of these.

    A whole number does for a float, nothing else is converted. Raises ValueError that names the key and the value;
    `name` is that of the value itself.
    """
    read: T = _read(kind, value, name)
    return read


def _read(kind: Any, value: Any, name: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _read(args[0], value, name)
    if origin is Annotated:
        return _within(_read(args[0], value, name), args[1], name)
    if origin in (tuple, list):
        items = _of_type(list, "a list", value, name)
        return origin(_read(args[0], item, f"{name}.{index}") for index, item in enumerate(items))
    if is_dataclass(kind) or is_typeddict(kind):
        return _read_object(kind, _of_type(dict, "an object", value, name), f"{name}." if name else "")
    if kind is float and type(value) is int:
        return float(value) if abs(value) <= sys.float_info.max else float("inf")
    return _of_type(kind, _NAMES[kind], value, name)


def _of_type(kind: type, wanted: str, value: Any, name: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{name or 'it'}: expected {wanted}, found {reprlib.repr(value)}")
    return value


def _within(value: float, ends: tuple[float, float], name: str) -> float:
    if not ends[0] <= value <= ends[1]:  # true for NaN, too
        raise ValueError(f"{name}: {reprlib.repr(value)} is not in {ends[0]:g}..{ends[1]:g}")
    return value


def _read_object(kind: Any, value: Mapping[str, Any], prefix: str) -> Any:
    kinds, required = _declared(kind)
    missing = sorted(required - value.keys())
    if missing:
        raise ValueError(f"{prefix}{missing[0]} is missing")
    return kind(**{key: _read(kinds[key], value[key], prefix + key) for key in kinds if key in value})


@cache
def _declared(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of the keys of a dataclass or TypedDict, and which of them must be there."""
    kinds = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        return kinds, kind.__required_keys__
    return kinds, frozenset(field.name for field in fields(kind) if field.default is MISSING)
