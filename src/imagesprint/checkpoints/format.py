"""What a checkpoint of `imagesprint train` holds, with every key checked where it is read.

`read_training_checkpoint` is the only way in: for going on with a training, and for all that uses its model. A
checkpoint may be whole to the last byte and still be none of ours, or from before a key was there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from imagesprint.checkpoints.weight_files import no_plain_tensor, read_checkpoint, shown
from imagesprint.errors import CheckpointError, RecipeError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.serialization import from_dict

_REQUIRED = ("model", "step", "recipe", "classes", "num_train")
_FOR_RESUMING = ("optimizer", "scaler", "ema", "train_seconds", "wall_seconds", "data", "decoder")
_SCALER_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
_LARGEST = 2**63 - 1
_NOT_OURS = "use another checkpoint: imagesprint train did not write this one so"
_T = TypeVar("_T", bound=str | list[Any] | dict[Any, Any])
OptimizerState = dict[str, Any]  # as `torch.optim.Optimizer.state_dict()` gives it


class CheckpointContent(TypedDict):
    """What the file of a checkpoint holds; docs/architecture.md says what each key means."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: OptimizerState
    scaler: dict[str, float]
    step: int
    train_seconds: float
    wall_seconds: float
    compile_seconds: float
    bad_records: int
    overflows: int
    recalibrated: bool
    recipe: dict[str, object]
    classes: list[str]
    class_texts: list[str]
    num_train: int
    data: str
    decoder: str
    torch: str


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The checkpoint at `path` after `step` steps, as it was read and checked.

    What older files lack is zero or empty. `missing` are the keys without which it cannot be resumed from. Tensors are
    dense and on the CPU; whether they fit the network is for `load_weights` and `check_weights` to say.
    """

    path: Path
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: OptimizerState
    scaler: dict[str, float]
    step: int
    recipe: Recipe
    classes: tuple[str, ...]
    class_texts: tuple[str, ...]
    num_train: int
    data: str
    decoder: str
    torch: str
    train_seconds: float
    wall_seconds: float
    compile_seconds: float
    bad_records: int
    overflows: int
    recalibrated: bool
    missing: tuple[str, ...]


def read_training_checkpoint(path: Path) -> TrainingCheckpoint:
    """Read the file at `path`, which `imagesprint train` wrote.

    Raises UsageError where there is none, CheckpointError where it is damaged or a key of it is not as it should be.
    """
    content = read_checkpoint(path)
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}: it was not written by imagesprint train",
            "a plain state dict serves as a start of training only: --set init=PATH",
        )
    given = _Keys(path, content)
    recipe, num_train = given.recipe(), given.count("num_train", at_least=1)
    classes = given.names("classes")
    return TrainingCheckpoint(
        path=path,
        model=given.weights("model"),
        ema=None if content.get("ema") is None else given.weights("ema"),
        optimizer=given.optimizer(),
        scaler=given.scaler(),
        step=given.step(recipe, num_train),
        recipe=recipe,
        classes=classes,
        class_texts=given.names("class_texts", len(classes)) if content.get("class_texts") != [] else (),
        num_train=num_train,
        data=given.typed("data", str, ""),
        decoder=given.typed("decoder", str, ""),
        torch=given.typed("torch", str, "unknown"),
        train_seconds=given.number("train_seconds"),
        wall_seconds=given.number("wall_seconds"),
        compile_seconds=given.number("compile_seconds"),
        bad_records=given.count("bad_records"),
        overflows=given.count("overflows"),
        recalibrated=given.flag("recalibrated"),
        missing=tuple(key for key in _FOR_RESUMING if key not in content),
    )


def load_weights(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a whole state dict, read from `where` (file and key). Raises CheckpointError where it does not fit."""
    check_weights(state, network.state_dict(), where)
    network.load_state_dict(state)


def check_weights(state: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError, which names `where`, unless `state` can be copied into `own`: names, shapes, finite."""
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unknown:
        name = min(missing | unknown)
        raise CheckpointError(
            f"{where} are not the weights of the recipe beside them: {name} is {'missing' if missing else 'unknown'}",
            "use another checkpoint",
        )
    for key, value in own.items():
        check_values(state[key], value, f"{where}.{key}")


def check_values(given: Tensor, own: Tensor, where: str) -> None:
    """Raise CheckpointError, which names `where`, unless `given` has the shape and kind of `own` and is finite."""
    if given.shape != own.shape:
        fault = f"has the shape {list(given.shape)}, not {list(own.shape)}"
    elif given.is_floating_point() != own.is_floating_point():
        fault = f"is of {given.dtype}, not {own.dtype}"
    elif not given.to(own.dtype).isfinite().all():  # 1e300 is finite in float64 alone
        fault = f"has values that are not finite in {own.dtype}"
    else:
        return
    raise CheckpointError(f"{where} {fault}", "use another checkpoint")


@dataclass(frozen=True)
class _Keys:
    """A dict in the file at `path`, under `prefix`, by the kinds of its values; each method raises CheckpointError."""

    path: Path
    content: Mapping[str, Any]
    prefix: str = ""

    def fault(self, key: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {self.prefix}{key} is {shown(value)}, not {wanted}", _NOT_OURS)

    def typed(self, key: str, kind: type[_T], default: _T) -> _T:
        value = self.content.get(key, default)
        if not isinstance(value, kind) or (isinstance(value, str) and not value.isprintable()):
            raise self.fault(key, value, "text on one line" if kind is str else f"a {kind.__name__}")
        return value

    def count(self, key: str, at_least: int = 0) -> int:
        value = self.content.get(key, 0)
        if type(value) is not int or not at_least <= value <= _LARGEST:
            raise self.fault(key, value, f"a whole number from {at_least}")
        return value

    def flag(self, key: str) -> bool:
        value = self.content.get(key, False)
        if type(value) is not bool:
            raise self.fault(key, value, "true or false")
        return value

    def number(self, key: str) -> float:
        value = self.content.get(key, 0.0)
        if type(value) not in (int, float) or not 0 <= value <= _LARGEST:
            raise self.fault(key, value, "a finite number from 0")
        return float(value)

    def names(self, key: str, number: int | None = None) -> tuple[str, ...]:
        """A list of text; of `number` rows, where that is given, or missing altogether."""
        if number is not None and key not in self.content:
            return ()
        value = self.typed(key, list, [])
        if not value or not all(isinstance(name, str) for name in value) or number not in (None, len(value)):
            raise CheckpointError(
                f"{self.path}: {key} is a list of {len(value)}, not of {number or 'one or more'} names", _NOT_OURS
            )
        return tuple(value)

    def recipe(self) -> Recipe:
        value = self.typed("recipe", dict, {})
        self._check_plain("recipe", value)
        try:
            return from_dict(value)
        except RecipeError as error:
            raise CheckpointError(f"{self.path}: {error.what}", error.hint) from error

    def _check_plain(self, key: str, value: object, depth: int = 0) -> None:
        """Refuse what no TOML file holds."""
        rows: list[tuple[object, object]] = []
        if type(value) is dict:
            rows = list(value.items())
        elif type(value) is list:
            rows = [(str(number), row) for number, row in enumerate(value)]
        elif type(value) not in (str, int, float, bool) or (type(value) is int and abs(value) > _LARGEST):
            raise self.fault(key, value, "text, a number, a list or a table")
        for name, row in rows:
            if not isinstance(name, str) or depth > 3:
                raise self.fault(key, value, "text, a number, or a list or table of few levels")
            self._check_plain(f"{key}.{name}", row, depth + 1)

    def step(self, recipe: Recipe, num_train: int) -> int:
        step = self.count("step")
        try:
            last = Schedule(recipe, num_train).total_steps
        except RecipeError as error:
            raise CheckpointError(f"{self.path}: recipe: {error.what}", error.hint) from error
        if step > last:
            raise self.fault("step", step, f"one of the recipe's {last}")
        return step

    def weights(self, key: str) -> dict[str, Tensor]:
        value = self.typed(key, dict, {})
        for name, tensor in value.items():
            if not isinstance(name, str) or no_plain_tensor(tensor):
                raise CheckpointError(
                    f"{self.path}: {key}.{name} is {no_plain_tensor(tensor) or 'no name'}, not a dense tensor",
                    _NOT_OURS,
                )
        return value

    def optimizer(self) -> OptimizerState:
        """As `torch.optim.Optimizer.state_dict()` gives it; empty where it is missing."""
        if "optimizer" not in self.content:
            return {}
        value = self.typed("optimizer", dict, {})
        state, groups = value.get("state"), value.get("param_groups")
        if not isinstance(state, dict) or not isinstance(groups, list) or not all(type(row) is dict for row in groups):
            raise self.fault("optimizer", value, "the state of an optimizer of torch's")
        for number, group in enumerate(groups):
            for key, setting in group.items():
                if setting is not None:
                    plain = list(setting) if type(setting) is tuple else setting  # as Adam's two betas
                    self._check_plain(f"optimizer.param_groups.{number}.{key}", plain)
        self._check_optimizer_state(state)
        return value

    def _check_optimizer_state(self, state: dict[Any, Any]) -> None:
        """By the numbers of parameters: tables of tensors, or of None for what has not begun; which, the optimizer
        says (`restore_optimizer`).
        """
        for number, row in state.items():
            where = f"optimizer.state.{number if type(number) is int else shown(number)}"
            is_table = type(number) is int and type(row) is dict
            if not is_table or not all(type(name) is str and name.isprintable() for name in row):
                raise self.fault(where, row, "the state of an optimizer of torch's")
            for name, value in row.items():
                if value is not None and no_plain_tensor(value):
                    raise CheckpointError(
                        f"{self.path}: {where}.{name} is {no_plain_tensor(value)}", "use another checkpoint"
                    )

    def scaler(self) -> dict[str, float]:
        """As `GradScaler.state_dict()` gives it: empty unless the loss scale is dynamic."""
        value = self.typed("scaler", dict, {})
        if value and set(value) != set(_SCALER_KEYS):
            raise self.fault("scaler", value, f"the five figures {', '.join(_SCALER_KEYS)}")
        figures = _Keys(self.path, value, "scaler.")
        for key in value:
            if key in ("growth_interval", "_growth_tracker"):
                figures.count(key, at_least=int(key == "growth_interval"))
            elif not math.isfinite(torch.tensor(figures.number(key), dtype=torch.float32)) or not value[key] > 0:
                raise figures.fault(key, value[key], "above 0 and within float32")
        return value
