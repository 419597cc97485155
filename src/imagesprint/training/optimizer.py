"""The optimizer that a recipe names, what is taken over of a checkpoint's, and the arithmetic of a step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from imagesprint.checkpoints.format import check_values
from imagesprint.errors import CheckpointError
from imagesprint.recipes.recipe import Recipe
from imagesprint.training.layerwise import LARS, Muon
from imagesprint.training.parameter_groups import hidden_weights, parameter_groups


def sgd(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, Nesterov's where the recipe says so.

    Momentum is there before the first step, which makes of it what torch makes of none. Torch's fused SGD would make it
    in that step, and leave it undefined where the step is passed over because fp16 gradients overflowed.
    """
    groups = parameter_groups(recipe, network)
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = parameters[0].device.type == "cuda"
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)
    if recipe.momentum:
        for parameter in parameters:
            # −0, not 0: momentum · −0 + gradient is the gradient to the last bit, its sign where it is zero as well.
            optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, -0.0, requires_grad=False)
    return optimizer


def adamw(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), with `momentum` as its β₁ and `beta2` as its β₂."""
    groups = parameter_groups(recipe, network)
    # The fused one counts its steps on the device, where a step that fp16 overflows is taken back without a host read.
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, recipe.beta2), fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            averages = {key: torch.zeros_like(parameter, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **averages}
    return optimizer


def lars(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """LARS: rates of their own for weights; the scales and shifts of norms and all biases have SGD's step."""
    weights = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    return LARS(_split(recipe, network, weights, "adapted"), recipe.momentum, recipe.nesterov)


def muon(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Muon for `hidden_weights`; the rest has SGD's step, but with its decoupled weight decay."""
    return Muon(_split(recipe, network, hidden_weights(network), "orthogonal"), recipe.momentum, recipe.nesterov)


def _split(recipe: Recipe, network: nn.Module, taken: set[str], key: str) -> list[dict[str, Any]]:
    """Groups whose `key` says whether their parameters are `taken`; the rest has the recipe's rate times `rest_lr`."""
    groups = parameter_groups(recipe, network, lambda name, _: {key: name in taken})
    for group in groups:
        group["lr_factor"] *= 1.0 if group[key] else recipe.rest_lr
    return groups


# By the names in `recipes.recipe.OPTIMIZER_NAMES`: (recipe, network on its device) → one of torch's kind, with groups
# as `parameter_groups` makes them. Its state, tensors alone, is there before the first step: what is not there when a
# checkpoint is read cannot be checked against it. The learning rate is set before each step. A parameter whose `grad`
# is None stays as it is, and so does its state.
OPTIMIZERS: dict[str, Callable[[Recipe, nn.Module], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
    "lars": lars,
    "muon": muon,
}


def build_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that the recipe names, of all of the network's parameters that are trained."""
    return OPTIMIZERS[recipe.optimizer](recipe, network)


# Of a group's settings those that no result depends on: how torch computes, and the rate, which is set before each step
_INDIFFERENT = ("lr", "foreach", "fused", "capturable", "differentiable")
_LATER = {"lr_factor": 1.0}  # what older checkpoints lack


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, given: dict[str, Any], where: str) -> None:
    """Take over the state in `given`, a state dict of torch's kind that was read from `where`.

    It may have none: before the first step. Raises CheckpointError, and changes nothing, where it is of another
    network, another optimizer or other settings.
    """
    own = optimizer.state_dict()
    keys = sorted({key for group in own["param_groups"] for key in group}.difference(_INDIFFERENT))
    settings = [
        [{key: group.get(key, _LATER.get(key)) for key in keys} for group in of["param_groups"]] for of in (given, own)
    ]
    if settings[0] != settings[1]:
        raise CheckpointError(
            f"{where}.param_groups are not those of the recipe beside them: {settings[0]!r:.200}",
            "use another checkpoint",
        )
    # None is what torch's SGD saves of a momentum that it has not made yet
    rows = {
        number: {key: value for key, value in row.items() if value is not None}
        for number, row in given["state"].items()
    }
    if not any(rows.values()):
        return
    for number in sorted(rows.keys() | own["state"].keys()):
        found, wanted = rows.get(number, {}), own["state"].get(number, {})
        if found.keys() != wanted.keys():
            raise CheckpointError(
                f"{where}.state.{number} has {', '.join(found)[:200] or 'nothing'}, the recipe's optimizer has "
                f"{', '.join(wanted) or 'nothing'} there",
                "use another checkpoint",
            )
        for key, value in found.items():
            check_values(value, wanted[key], f"{where}.state.{number}.{key}")
    for number, row in rows.items():
        for key, value in row.items():
            own["state"][number][key].copy_(value)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Have the next step go by `lr`, in each group times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


@torch.no_grad()
def l2_loss(optimizer: torch.optim.Optimizer) -> Tensor:
    """What weight decay adds to the loss: ½·Σ decay·‖w‖² over all that is trained at present, a scalar on the device.

    It is 0 where decay is decoupled from the loss (AdamW, Muon); what is frozen does not decay.
    """
    total = torch.zeros((), device=optimizer.param_groups[0]["params"][0].device)
    if isinstance(optimizer, torch.optim.AdamW | Muon):
        return total
    for group in optimizer.param_groups:
        if trained := [parameter for parameter in group["params"] if parameter.requires_grad]:
            norms = torch.stack(torch._foreach_norm(trained))
            total = total + 0.5 * group["weight_decay"] * norms.square().sum()
    return total


AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def best_precision(device: torch.device) -> str:
    """What precision "auto" means on `device`: bf16 where the hardware multiplies it, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Without these instructions bf16 on a CPU is emulated, and slower than fp32.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if any(probe is not None and probe() for probe in probes) else "fp32"


def weight_dtype(recipe: Recipe) -> torch.dtype:
    """The dtype of weights, gradients and statistics: float64 for fp64 (to compare ranks), else float32."""
    return torch.float64 if recipe.precision == "fp64" else torch.float32


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """The context of forward passes: autocast for bf16 and fp16, nothing otherwise."""
    dtype = AUTOCAST.get(recipe.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def loss_scaler(recipe: Recipe, device: torch.device) -> torch.amp.GradScaler:
    """Dynamic loss scaling for fp16 without a `loss_scale`; disabled, and then a no-op, otherwise."""
    return torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16" and recipe.loss_scale == 0)


def static_scale(recipe: Recipe) -> float:
    """The constant factor on the loss: `loss_scale` in fp16, 1 otherwise."""
    return recipe.loss_scale if recipe.precision == "fp16" and recipe.loss_scale > 0 else 1.0
