"""SGD as the recipe has it, in the recipe's arithmetic."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from imagesprint.checkpoints.format import check_values
from imagesprint.errors import CheckpointError
from imagesprint.recipes.recipe import Recipe

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


# Of a group's settings those that the result depends on, but for the learning rate, which is set before each step.
_SETTINGS = ("params", "momentum", "dampening", "weight_decay", "nesterov", "maximize")


def build_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.SGD:
    """SGD with momentum over two groups: with the recipe's weight decay, and without.

    The second holds the scales and shifts of norms and all biases (every tensor of one dimension) where
    `decay_norm_and_bias` is off. The learning rate is set before each step.

    Momentum is there before the first step, which makes of it what torch makes of none. Torch's fused SGD would make it
    in that step, and leave it undefined where the step is passed over because fp16 gradients overflowed.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    spared = [] if recipe.decay_norm_and_bias else [parameter for parameter in parameters if parameter.ndim <= 1]
    spared_ids = {id(parameter) for parameter in spared}
    decayed = [parameter for parameter in parameters if id(parameter) not in spared_ids]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=0.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=parameters[0].device.type == "cuda",
    )
    if recipe.momentum:
        for parameter in parameters:
            # −0, not 0: momentum · −0 + gradient is the gradient to the last bit, its sign where it is zero as well.
            optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, -0.0, requires_grad=False)
    return optimizer


@torch.no_grad()
def restore_momentum(optimizer: torch.optim.SGD, given: dict[str, Any], where: str) -> None:
    """Take over the momentum in `given`, a state dict as torch's SGD gives it that was read from `where`.

    It may have none: before the first step. Raises CheckpointError where it is of another network or other settings.
    """
    own = optimizer.state_dict()
    settings = [[{key: group.get(key) for key in _SETTINGS} for group in of["param_groups"]] for of in (given, own)]
    if settings[0] != settings[1]:
        raise CheckpointError(
            f"{where}.param_groups are not those of the recipe beside them: {settings[0]!r:.200}",
            "use another checkpoint",
        )
    buffers = {number: row["momentum_buffer"] for number, row in own["state"].items()}
    values = {number: row.get("momentum_buffer") for number, row in given["state"].items()}
    values = {number: value for number, value in values.items() if value is not None}
    if values and values.keys() != buffers.keys():
        raise CheckpointError(
            f"{where}.state has the momentum of {len(values)} tensors, the recipe's model has {len(buffers)}",
            "use another checkpoint",
        )
    for number, value in values.items():
        check_values(value, buffers[number], f"{where}.state.{number}.momentum_buffer")
    for number, value in values.items():
        buffers[number].copy_(value)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def l2_loss(optimizer: torch.optim.Optimizer) -> Tensor:
    """What weight decay adds to the loss, ½·Σ decay·‖w‖², as a scalar on the device."""
    parts = [
        0.5
        * group["weight_decay"]
        * torch.stack([norm.square() for norm in torch._foreach_norm(group["params"])]).sum()
        for group in optimizer.param_groups
    ]
    return torch.stack(parts).sum()
