"""Optimizers whose step has a size of its own in each layer: LARS and Muon.

Both keep SGD's momentum, in `momentum_buffer`, which is there before the first step. Parameters whose `grad` is None
stay as they are. Nothing is read back from the device, but that with fp16's dynamic loss scale torch's GradScaler looks
whether to leave out the step. Every rank computes the whole step, from the same sums: to the same bits.
"""

from collections import defaultdict
from typing import Any, Final

import torch
from torch import Tensor

Group = dict[str, Any]


class _Momentum(torch.optim.Optimizer):
    """What both have in common; each moves a group's parameters in `_move`."""

    def __init__(self, groups: list[Group], momentum: float, nesterov: bool) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "nesterov": nesterov})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 (torch's interface)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(group, parameters, [parameter.grad for parameter in parameters])

    def _move(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        raise NotImplementedError

    def _with_momentum(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Add `gradients` to the momentum, m·v + g; returns it, or with Nesterov's g + m·(m·v + g)."""
        momentum = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(momentum, group["momentum"])
        torch._foreach_add_(momentum, gradients)
        if group["nesterov"]:
            return list(torch._foreach_add(gradients, momentum, alpha=group["momentum"]))
        return momentum


TRUST: Final = 0.001  # η: "how much we trust the layer to change its weights during one update" (section 4 there)


class LARS(_Momentum):
    """Layer-wise adaptive rates (You, Gitman, Ginsburg 2017, arXiv:1708.03888, algorithm 1).

    v ← m·v + lr·λ·(g + β·w), w ← w − v, with weight decay β and, in groups that are `adapted`, a rate of each tensor's
    own, λ = η·‖w‖ / (‖g‖ + β·‖w‖); λ is 1 in the others, and where a tensor's weights or gradients are all zero.
    """

    def _move(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        decay = group["weight_decay"]
        steps = torch._foreach_add(gradients, parameters, alpha=decay)
        if group["adapted"]:
            torch._foreach_mul_(steps, list(group["lr"] * _trust(parameters, gradients, decay)))
        else:
            torch._foreach_mul_(steps, group["lr"])
        torch._foreach_sub_(parameters, self._with_momentum(group, parameters, list(steps)))


def _trust(parameters: list[Tensor], gradients: list[Tensor], decay: float) -> Tensor:
    """λ of each tensor, [tensors]."""
    weights, slopes = torch.stack(torch._foreach_norm(parameters)), torch.stack(torch._foreach_norm(gradients))
    return torch.where((weights > 0) & (slopes > 0), TRUST * weights / (slopes + decay * weights), 1.0)


class Muon(_Momentum):
    """Momentum, orthogonalised by Newton and Schulz (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Groups that are `orthogonal` hold weights of convolutions, taken as matrices of outputs × (inputs · pixels), and of
    linear layers: w ← w·(1 − lr·β) − lr·s·O, where O is the momentum with all of its singular values near one, and
    s = √max(1, rows / columns), so that one rate fits all shapes (there, and torch.optim.Muon's "original"). The others
    move by the momentum itself. Weight decay β is decoupled in both.
    """

    def _move(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        updates = self._with_momentum(group, parameters, gradients)
        if group["orthogonal"]:
            updates = _orthogonalised(updates)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])


def _orthogonalised(updates: list[Tensor]) -> list[Tensor]:
    """s·O of each of `updates`; those of equal shapes at once."""
    alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for number, update in enumerate(updates):
        rows, columns = len(update), update[0].numel()
        alike[min(rows, columns), max(rows, columns)].append(number)
    found: dict[int, Tensor] = {}
    for numbers in alike.values():
        made = orthogonalise(torch.stack([_wide(updates[number]) for number in numbers]))
        found |= {number: _as(updates[number], matrix) for number, matrix in zip(numbers, made, strict=True)}
    return [found[number] for number in range(len(updates))]


def _wide(update: Tensor) -> Tensor:
    """[O, I, k, k] or [O, I] as a matrix of no more rows than columns, which may be transposed."""
    # The order of the columns does not matter; in this one weights in channels_last lie already.
    matrix = update.permute(0, 2, 3, 1).flatten(1) if update.ndim == 4 else update
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def _as(update: Tensor, matrix: Tensor) -> Tensor:
    """What `_wide` made of `update`, orthogonalised, in the shape of `update` and scaled for it."""
    rows, columns = len(update), update[0].numel()
    scaled = matrix.mT * (rows / columns) ** 0.5 if rows > columns else matrix
    if update.ndim == 2:
        return scaled
    inputs, height, width = update.shape[1:]
    return scaled.reshape(rows, height, width, inputs).permute(0, 3, 1, 2)


ITERATIONS: Final = 5
# a·x + b·x³ + c·x⁵, five times, takes singular values of 0.002 to 1 to between 0.68 and 1.21: chosen to be steep at 0
# (ibid.), where values grow up to 3.4445⁵ = 485 times.
COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Float matrices [B, M, N], M ≤ N, with their singular vectors and all singular values near one; 0 stays 0.

    Each iteration is X ← (a + b·G + c·G²)·X with G = X·Xᵀ. All such polynomials in the first G commute, so the products
    here are of M × M matrices but for the first and the last: 4·M²·N + 34·M³ FLOP a matrix, in place of
    5·(4·M²·N + 2·M³): for a 3 × 3 convolution 70·M³ in place of 190·M³. That needs more digits than bf16 has: rounding
    makes eigenvalues of G negative, and each iteration takes those a² = 12 times further down. In float32 they stay
    below 1e-3. So it computes in the dtype of the weights, under autocast too.
    """
    a, b, c = COEFFICIENTS
    norms: Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    unit = matrices / norms.clamp(min=torch.finfo(matrices.dtype).tiny)  # no singular value above one
    gram = unit @ unit.mT
    product = gram  # what stands before `unit`; set in the first iteration
    for iteration in range(ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor @ product if iteration else factor
        if iteration < ITERATIONS - 1:
            gram = factor @ gram @ factor
    return product @ unit
