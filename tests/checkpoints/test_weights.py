import argparse
import io
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.checkpoints.naming import list_checkpoints
from imagesprint.checkpoints.weight_files import read_checkpoint
from imagesprint.checkpoints.weights import TrainedModel, load_model, start_from
from imagesprint.console import Console
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import to_dict

RECIPE = Recipe(name="test", model="resnet20", phases=(Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 32),))


def save_checkpoint(path: Path, classes: int = 5) -> dict[str, torch.Tensor]:
    weights = build_model(RECIPE, classes).state_dict()
    names = [f"class {index}" for index in range(classes)]
    torch.save({"model": weights, "step": 7, "recipe": to_dict(RECIPE), "classes": names, "num_train": 40}, path)
    return weights


def test_fine_tuning_from_one_class_count_to_another_takes_all_but_the_head(tmp_path: Path) -> None:
    given = save_checkpoint(tmp_path / "a.pt", classes=5)
    model = build_model(RECIPE, 3)
    head = model.get_parameter("fc.weight").clone()
    assert start_from(model, tmp_path / "a.pt") == ["fc.bias", "fc.weight"]
    own = model.state_dict()
    assert torch.equal(own["fc.weight"], head)
    assert all(torch.equal(own[key], given[key]) for key in own if not key.startswith("fc."))


def test_the_same_class_count_takes_the_head_too(tmp_path: Path) -> None:
    given = save_checkpoint(tmp_path / "a.pt")
    model = build_model(RECIPE, 5)
    torch.nn.init.zeros_(model.get_parameter("fc.weight"))
    assert start_from(model, tmp_path / "a.pt") == []
    assert torch.equal(model.state_dict()["fc.weight"], given["fc.weight"])


def test_of_a_head_of_several_layers_those_that_fit_are_taken(tmp_path: Path) -> None:
    """As ConvNeXt's has it: a norm before the classes."""

    def network(classes: int) -> torch.nn.Module:
        head = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, classes))
        return torch.nn.ModuleDict({"stem": torch.nn.Conv2d(3, 8, 1), "head": head})

    given, model = network(5), network(3)
    torch.nn.init.uniform_(given.get_parameter("head.0.weight"))
    torch.save(given.state_dict(), tmp_path / "a.pt")
    assert start_from(model, tmp_path / "a.pt") == ["head.1.bias", "head.1.weight"]
    assert torch.equal(model.get_parameter("head.0.weight"), given.get_parameter("head.0.weight"))


State = dict[str, torch.Tensor]
PREFIXES = ["", "module.", "_orig_mod.", "model.", "module.module.", "module._orig_mod.", "_orig_mod.module.model."]


class Settings(dict[str, Any]):
    """As Lightning keeps hyperparameters: a dict of its own kind."""


class OfOtherDevice:
    """Saved as a tensor of a device that only its plug-in knows."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (self.value, torch.float32, "xla:0", False)


class OfOtherClass(torch.Tensor):
    pass


class Stage(Enum):
    FIT = "fit"


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def optimizer_state(state: State) -> dict[str, Any]:
    return {"state": {0: {"momentum_buffer": state["conv1.weight"] + 9}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def saved_by(program: str, state: State) -> Any:
    """What `program` would save of a network with the weights `state`."""
    other = {key: value + 5 if value.is_floating_point() else value for key, value in state.items()}
    args = argparse.Namespace(lr=0.1, output=Path("out"), stage=Stage.FIT, size=torch.Size([3]), kind=torch.float16)
    beside = {"epoch": 90, "arch": "resnet50", "optimizer": optimizer_state(state), "args": args}
    named = {"SGD": {"state": {key: {"momentum_buffer": value} for key, value in other.items()}}}
    callbacks = {"ModelCheckpoint": {"dirpath": Path("out"), "best": np.float64(0.7), "stage": Stage.FIT}}
    programs: dict[str, Any] = {
        "PyTorch's example": {**beside, "state_dict": prefixed("module.", state), "best_acc1": torch.tensor(76.0)},
        "timm": {**beside, "state_dict": other, "state_dict_ema": state, "metric": np.float64(75), "version": 2},
        "torchvision": {**beside, "model": state, "scaler": None, "lr_scheduler": {"last": Settings(a=1)}},
        "torchvision with an average": {
            **beside,
            "model": other,
            "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", state)},
        },
        "Lightning": {
            "epoch": 3,
            "pytorch-lightning_version": "2.5",
            "state_dict": {**prefixed("model.", state), "criterion.weight": torch.ones(5), "acc.tp": torch.ones(1)},
            "optimizer_states": [optimizer_state(state)],
            "callbacks": callbacks,
            "hyper_parameters": Settings(lr=0.1, path=Path("x")),
        },
        "Lightning with an average": {
            "state_dict": {**prefixed("backbone.", other), **prefixed("ema_model.module.", state)},
            "rng": np.arange(3),
        },
        "Composer": {
            "state": {"model": prefixed("module.", state), "optimizers": named, "run_name": "a"},
            "rng": [{"python": (3, (1, 2), None)}],
        },
        "two parts": {"model_state_dict": state, "best_state_dict": other, "loss": float("nan")},
        "a part compiled": {
            key.replace("layer1.", "layer1._orig_mod.", 1) if key.startswith("layer1.") else key: value
            for key, value in state.items()
        },
        "a dict with figures": {**state, "epoch": 3, "args": args},
        "a list": [prefixed("module.", state), optimizer_state(state)],
        "SwAV": {
            **prefixed("module.", {**state, "projection_head.0.weight": torch.ones(5, 64), "mean": torch.ones(3)}),
        },
        "an unusual type beside": {"model": state, "rng": [torch.ones(3, dtype=torch.uint16)]},
        "tensors of a class": {key: value.as_subclass(OfOtherClass) for key, value in state.items()},
        "tensors of a device": {key: OfOtherDevice(value) for key, value in state.items()},
        "the module": {"model": _with_weights(state), "epoch": 3},
        "without counters": {key: value for key, value in state.items() if "num_batches" not in key},
    }
    return programs[program]


def _with_weights(state: State) -> torch.nn.Module:
    model = torch.nn.Sequential()
    for key, value in state.items():
        *path, name = key.split(".")
        at: torch.nn.Module = model
        for part in path:
            if part not in dict(at.named_children()):
                at.add_module(part, torch.nn.Sequential())
            at = at.get_submodule(part)
        at.register_buffer(name, value)
    return model


def check_start(path: Path, state: State) -> list[str]:
    """Start from `path`: all of `state` must be taken; returns what was told."""
    model, stream = build_model(RECIPE, 5), io.StringIO()
    assert start_from(model, path, Console(stream)) == []
    for key, value in model.state_dict().items():
        assert value.equal(state[key]) or "num_batches" in key, key
    return stream.getvalue().splitlines()


@pytest.fixture(scope="module")
def state() -> State:
    given = build_model(replace(RECIPE, seed=8), 5).state_dict()
    return {key: value + 1 for key, value in given.items()}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_in_any_order_in_all_formats(tmp_path: Path, state: State, prefix: str, legacy: bool) -> None:
    from safetensors.torch import save_file

    torch.save(prefixed(prefix, state), tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    lines = check_start(tmp_path / "a.pth", state)
    prefix_told = f" without the prefix {prefix}" if prefix else ""
    assert lines == [f"start       from {tmp_path}/a.pth: {len(state)} tensors{prefix_told}"]
    if not legacy:
        save_file({key: value.contiguous() for key, value in prefixed(prefix, state).items()}, tmp_path / "a.bin")
        check_start(tmp_path / "a.bin", state)


PROGRAMS = {
    "PyTorch's example": " of state_dict without the prefix module.",
    "timm": " of state_dict_ema, a moving average",
    "torchvision": " of model",
    "torchvision with an average": " of model_ema without the prefix module., a moving average",
    "Lightning": " of state_dict without the prefix model.",
    "Lightning with an average": " of state_dict without the prefix ema_model.module., a moving average",
    "Composer": " of state.model without the prefix module.",
    "two parts": " of model_state_dict",
    "a part compiled": "",
    "a dict with figures": "",
    "a list": " of 0 without the prefix module.",
    "SwAV": " without the prefix module.",
    "an unusual type beside": " of model",
    "tensors of a class": "",
    "tensors of a device": "",
    "the module": " of model",
    "without counters": "",
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("program", "told"), PROGRAMS.items())
def test_what_other_programs_save_is_a_start(
    tmp_path: Path, state: State, program: str, told: str, legacy: bool
) -> None:
    torch.save(saved_by(program, state), tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    lines = check_start(tmp_path / "a.ckpt", state)
    assert lines[0].partition(" tensors")[2] == told, lines
    is_all = program in ("a part compiled", "without counters") or program.startswith("tensors of")
    assert len(lines) == (1 if is_all else 2), lines


def test_what_is_left_is_told(tmp_path: Path, state: State) -> None:
    given = {**state, "fc.weight": torch.zeros(7, 64), "fc.bias": torch.zeros(7)}
    torch.save({"state_dict": prefixed("module.", given), "epoch": 3, "\x1b[2J": 1}, tmp_path / "a.pt")
    model, stream = build_model(RECIPE, 5), io.StringIO()
    assert start_from(model, tmp_path / "a.pt", Console(stream)) == ["fc.bias", "fc.weight"]
    assert stream.getvalue().splitlines()[1:] == [
        "start       left as the seed made them: fc.bias, fc.weight",
        "start       not taken: epoch, '\\x1b[2J', module.fc.weight, module.fc.bias",
    ]


def test_networks_that_fit_alike_are_not_chosen_from_by_chance(tmp_path: Path, state: State) -> None:
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"student": state, "teacher": other}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="several networks that fit: of student, and of teacher"):
        start_from(build_model(RECIPE, 5), tmp_path / "a.pt")
    torch.save({"student": state, "teacher": state}, tmp_path / "a.pt")
    check_start(tmp_path / "a.pt", state)


def test_a_deeper_network_of_the_same_names_is_another_one(tmp_path: Path, state: State) -> None:
    deeper = {key.replace("layer3.2", "layer3.3"): value for key, value in state.items() if key.startswith("layer3.2")}
    torch.save(prefixed("module.", {**state, **deeper}), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"0 of its \d+ tensors are missing .*, 10 are unknown \(first: module.lay"
    ):
        start_from(build_model(RECIPE, 5), tmp_path / "a.pt")


BAD_VALUES: dict[str, Callable[[torch.Tensor], Any]] = {
    "a quantised tensor": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "a sparse tensor": lambda value: value.to_sparse(),
    "without values": lambda value: value.to("meta"),
    "a complex tensor": lambda value: value.to(torch.complex64),
    "a tensor of a type that is not computed with": lambda value: value.to(torch.float8_e5m2),
    "of torch.int8, not torch.float32": lambda value: value.to(torch.int8),
    "not finite in torch.float32": lambda value: torch.full_like(value, 1e300, dtype=torch.float64),
    "not finite": lambda value: torch.full_like(value, float("nan")),
    "numpy": lambda value: value.numpy(),
}


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(("found", "bad"), BAD_VALUES.items())
def test_tensors_that_are_no_weights_are_named(
    tmp_path: Path, state: State, found: str, bad: Callable[[torch.Tensor], Any]
) -> None:
    torch.save({"state_dict": {**state, "layer1.0.bn1.bias": bad(state["layer1.0.bn1.bias"])}}, tmp_path / "a.pt")
    model = build_model(RECIPE, 5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"layer1.0.bn1.bias .*{found}"):
        start_from(model, tmp_path / "a.pt")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_types_that_torch_does_not_compute_with_are_named_where_they_are_read(tmp_path: Path, state: State) -> None:
    from safetensors.torch import save_file

    small = {key: value.contiguous().to(torch.float8_e4m3fn) for key, value in state.items()}
    again = {key: value.clone() for key, value in small.items()}
    save_file({**prefixed("a.", small), **prefixed("b.", again)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="several networks that fit"):
        start_from(build_model(RECIPE, 5), tmp_path / "a.safetensors")
    save_file(small, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"is a tensor of torch.float8_e4m3fn"):
        start_from(build_model(RECIPE, 5), tmp_path / "a.safetensors")
    save_checkpoint(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    for dtype in (torch.float8_e4m3fn, torch.bits8):
        content["model"]["bn1.bias"] = torch.empty(16, dtype=dtype)
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=rf"model.bn1.bias is a tensor of {dtype}, not a dense tensor"):
            load_model(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floating_types_are_taken(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    torch.save(given, tmp_path / "a.pt")
    check_start(tmp_path / "a.pt", {key: value.to(torch.float32) for key, value in given.items()})


def test_weights_of_another_model_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt")
    other = build_model(Recipe(name="test", model="resnet18", phases=RECIPE.phases), 5)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not fit"):
        start_from(other, tmp_path / "a.pt")
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.pt"):
        read_checkpoint(tmp_path / "no.pt")
    with pytest.raises(UsageError, match="checkpoints"):
        load_model(tmp_path)


@pytest.mark.parametrize("length", [0, 10, 5_000, -1])
def test_a_checkpoint_cut_short_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "step-0000007.pt"
    save_checkpoint(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="step-0000007") as caught:
        load_model(path)
    assert caught.value.hint


def test_other_files_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="list"):
        load_model(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="step, recipe, classes"):
        load_model(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="a page of the web"):
        load_model(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_trained_model_takes_uint8_images(tmp_path: Path) -> None:
    weights = save_checkpoint(tmp_path / "a.pt")
    model = load_model(str(tmp_path / "a.pt"))
    assert isinstance(model, TrainedModel)
    assert (model.step, model.classes[2], model.recipe) == (7, "class 2", RECIPE)
    assert not model.training
    images = torch.randint(0, 256, (3, 24, 24, 3), dtype=torch.uint8)
    logits = model(images)
    assert (logits.shape, logits.dtype) == ((3, 5), torch.float32)
    network = build_model(RECIPE, 5).eval()
    network.load_state_dict(weights)
    normal = (images.float() - torch.tensor(RECIPE.mean)) / torch.tensor(RECIPE.std)
    torch.testing.assert_close(logits, network(normal.permute(0, 3, 1, 2)))


def test_the_moving_average_is_what_is_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    content["ema"] = {key: torch.zeros_like(value) for key, value in content["model"].items()}
    torch.save(content, tmp_path / "a.pt")
    assert load_model(tmp_path / "a.pt").network.get_parameter("fc.weight").abs().sum() == 0


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step-0000007.pt"
    save_checkpoint(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        load_model(path)


def test_checkpoints_are_ordered_by_step_and_other_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("step-best.pt", "step-0000005.pt", "step-12345678.pt", "step-9999999.pt", ".step-0000009.pt.1.tmp"):
        (tmp_path / "checkpoints" / name).touch()
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-0000005.pt", "step-9999999.pt", "step-12345678.pt"]
