"""Every key of a checkpoint is checked where it is read: an error of ours, or what was saved to the last bit."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.checkpoints.weights import load_model
from imagesprint.console import Console
from imagesprint.errors import CheckpointError
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.state import TrainingState

RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp16",
    ema_decay=0.9,
    phases=(Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 16),),
)
CLASSES = ("a", "b", "c")
CPU = torch.device("cpu")
LEFT_OUT = object()
NAN, INF = float("nan"), float("inf")
TENSOR = torch.ones(16)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """What a training saved after four steps, with momentum."""
    state = TrainingState(RECIPE, CLASSES, CPU)
    state.step, state.train_seconds = 4, 2.5
    for number, row in enumerate(state.optimizer.state.values()):
        row["momentum_buffer"].fill_(number)
    state.network.get_parameter("bn1.weight").data.fill_(3)
    saved: dict[str, Any] = dict(copy.deepcopy(state.checkpoint(40, "data", "native")))
    return saved


def resume(path: Path, recipe: Recipe = RECIPE) -> TrainingState:
    held = read_training_checkpoint(path)
    state = TrainingState(recipe, CLASSES, CPU)
    state.restore(held, "data", "native", force_decoder=False)
    return state


def put(content: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """`content` with `value` at `key`, parts of which are separated by colons."""
    wrong = copy.copy(content)
    at: Any = wrong
    *path, last = (int(part) if part.isdigit() else part for part in key.split(":"))
    for part in path:
        at[part] = copy.copy(at[part])
        at = at[part]
    if value is LEFT_OUT:
        del at[last]
    else:
        at[last] = value
    return wrong


def test_all_is_taken_over_and_momentum_keeps_its_place(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    state = resume(tmp_path / "a.pt")
    assert (state.step, state.train_seconds) == (4, 2.5)
    for key, value in state.network.state_dict().items():
        assert torch.equal(value, content["model"][key])
    for number, row in enumerate(state.optimizer.state.values()):
        assert row["momentum_buffer"].unique().tolist() == [number]
    assert len(state.optimizer.state) == len(list(state.network.parameters()))


def test_a_checkpoint_from_before_the_first_step_has_no_momentum_yet(content: dict[str, Any], tmp_path: Path) -> None:
    nothing = {number: {"momentum_buffer": None} for number in content["optimizer"]["state"]}
    for rows in ({}, nothing):  # nothing: as torch's SGD saves it
        torch.save(put(content, "optimizer:state", rows), tmp_path / "a.pt")
        assert all(not row["momentum_buffer"].any() for row in resume(tmp_path / "a.pt").optimizer.state.values())


def test_the_moving_average_begins_with_the_weights_of_init(tmp_path: Path) -> None:
    given = TrainingState(replace(RECIPE, seed=5), CLASSES, CPU).network.state_dict()
    torch.save(given, tmp_path / "a.pt")
    state = TrainingState(replace(RECIPE, init=str(tmp_path / "a.pt")), CLASSES, CPU)
    state.start(Console.silent())
    for key, value in state.evaluated_weights().items():
        assert torch.equal(value, given[key]), key
    assert state.average.keys() < given.keys()


OF_BOTH: list[tuple[str, object]] = [
    ("step", True), ("step", -1), ("step", 3.0), ("step", torch.tensor(3)), ("step", 10**30), ("step", 11),
    ("classes", []), ("classes", "abc"), ("classes", [1, 2, 3]), ("classes", {"a": 1}),
    ("class_texts", ["a"]), ("num_train", 0), ("num_train", NAN),
    ("recipe", []), ("recipe:seed", 10**30), ("recipe:bn_eps", NAN), ("recipe:bn_eps", TENSOR), ("recipe:model", "x"),
    ("recipe:unknown", 1), ("recipe:phases", []), ("recipe:phases:0:lr", [INF, 0.1]), ("recipe:mean", [[[[[1]]]]]),
    ("model", {}), ("model", []), ("model:conv1.weight", LEFT_OUT), ("model:more", TENSOR), ("model:bn1.bias", "text"),
    ("ema", [1]), ("ema:bn1.bias", TENSOR * NAN), ("ema:bn1.bias", torch.ones(3)), ("ema:bn1.bias", TENSOR.long()),
    ("ema:bn1.bias", TENSOR.to("meta")), ("ema:bn1.bias", TENSOR.to_sparse()), ("ema:bn1.bias", TENSOR * 1j),
    ("ema:bn1.bias", torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8)), ("ema:bn1.bias", None),
    ("ema:bn1.bias", torch.ones(1).expand(1 << 40)), ("ema:bn1.num_batches_tracked", torch.tensor(1.0)),
    ("train_seconds", NAN), ("wall_seconds", -1.0), ("compile_seconds", "1"), ("bad_records", True), ("overflows", 1.5),
    ("recalibrated", 1),
    ("data", 3), ("decoder", None), ("torch", b"2.13"),
    ("decoder", "\x1b[2J"), ("optimizer", 1), ("optimizer", {}),
    ("optimizer:state", []), ("optimizer:param_groups", {}), ("optimizer:param_groups:0", 1),
    ("optimizer:param_groups:0:momentum", TENSOR), ("optimizer:state:0", {"exp_avg": 1.0}),
    ("optimizer:state:0:momentum_buffer", TENSOR.to("meta")), ("scaler:scale", 0.0), ("scaler:scale", INF),
    ("scaler:scale", 1e300), ("scaler:growth_interval", 0), ("scaler:_growth_tracker", -1), ("scaler:scale", LEFT_OUT),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(("key", "value"), OF_BOTH, ids=lambda value: str(value)[:20].replace("\n", " "))
def test_a_bad_value_is_named_by_file_and_key(content: dict[str, Any], tmp_path: Path, key: str, value: object) -> None:
    torch.save(put(content, key, value), tmp_path / "a.pt")
    for work in (load_model, resume):
        if work is load_model and key.startswith("model"):
            continue  # the moving average is what it loads
        with pytest.raises(CheckpointError, match=key.split(":")[0]) as caught:
            work(tmp_path / "a.pt")
        assert caught.value.what.startswith(str(tmp_path / "a.pt"))
        assert caught.value.what.isprintable()
        assert caught.value.hint


OF_RESUMING: list[tuple[str, object]] = [
    ("scaler", {}), ("ema", None), ("ema", LEFT_OUT), ("optimizer", LEFT_OUT), ("model:bn1.bias", TENSOR * NAN),
    ("recipe:weight_decay", 0.5), ("recipe:seed", 5), ("optimizer:param_groups:0:momentum", 0.5),
    ("optimizer:param_groups:0:maximize", True), ("optimizer:param_groups:0:params", [0]),
    ("optimizer:param_groups", []),
    ("optimizer:state:0", LEFT_OUT), ("optimizer:state:0", {"exp_avg": TENSOR}),
    ("optimizer:state:0:momentum_buffer", torch.ones(3)),
    ("optimizer:state:1:momentum_buffer", TENSOR * INF), ("optimizer:state:1:momentum_buffer", TENSOR.long()),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OF_RESUMING, ids=lambda value: str(value)[:20].replace("\n", " "))
def test_what_does_not_fit_the_run_is_not_resumed_from(
    content: dict[str, Any], tmp_path: Path, key: str, value: object
) -> None:
    torch.save(put(content, key, value), tmp_path / "a.pt")
    state = TrainingState(RECIPE, CLASSES, CPU)
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        state.restore(read_training_checkpoint(tmp_path / "a.pt"), "data", "native", force_decoder=False)
    assert caught.value.what.startswith(str(tmp_path / "a.pt"))
    assert all(torch.equal(before[name], tensor) for name, tensor in state.network.state_dict().items())


def test_figures_of_the_device_and_new_keys_are_none_of_its_business(content: dict[str, Any], tmp_path: Path) -> None:
    for key, value in (("optimizer:param_groups:0:fused", True), ("optimizer:param_groups:0:foreach", None)):
        torch.save(put(content, key, value), tmp_path / "a.pt")
        assert resume(tmp_path / "a.pt").optimizer.param_groups[0]["fused"] is False
    torch.save({**content, "of a later version": TENSOR}, tmp_path / "a.pt")
    assert resume(tmp_path / "a.pt").step == 4
    torch.save(put(content, "recipe:bad_records", "substitute"), tmp_path / "a.pt")
    assert resume(tmp_path / "a.pt").step == 4
    del content["class_texts"], content["overflows"]  # as older files
    torch.save(content, tmp_path / "a.pt")
    assert resume(tmp_path / "a.pt").overflows == 0
    assert load_model(tmp_path / "a.pt").class_texts == CLASSES


def test_a_checkpoint_of_another_kind_of_loss_scale(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(put(content, "recipe:precision", "fp32"), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"scaler is there, the recipe has none"):
        resume(tmp_path / "a.pt", replace(RECIPE, precision="fp32"))
