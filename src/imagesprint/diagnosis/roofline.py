"""What the device can do at best, and how much work an image takes.

Every operation reads its inputs and writes its outputs once, but for batch norm, which reads twice what it first sums
up and then uses, and a convolution's backward pass, which reads the gradient once for the weights and once for the
input. For a ResNet-50 at 224 pixels in bf16 that comes to 481 MB. Caches make it less, poor
kernels make it more.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imagesprint.model.flops import empty_network, flop_counter
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.optimizer import AUTOCAST, weight_dtype
from imagesprint.training.prefetch import Stopwatch

COPY_BYTES: Final = {"cuda": 4 << 30, "cpu": 256 << 20}  # far more than any cache holds
MATRIX_SIDE: Final = {"cuda": 8192, "cpu": 1024}
_PASSES: Final = 7


@dataclass(frozen=True)
class Ceilings:
    """Bytes read and written in a second by a copy, FLOP in a second by a product of square matrices of `dtype`."""

    copy_bytes_per_second: float
    matmul_flops_per_second: float
    dtype: str


def measure_ceilings(recipe: Recipe, device: torch.device) -> Ceilings:
    """Measure both on `device`, the product in the dtype that the recipe's convolutions have."""
    dtype = AUTOCAST.get(recipe.precision, weight_dtype(recipe))
    return Ceilings(_copy(device), _matmul(device, dtype), str(dtype).removeprefix("torch."))


def _copy(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * len(source) / _fastest(device, lambda: target.copy_(source))


def _matmul(device: torch.device, dtype: torch.dtype) -> float:
    side = MATRIX_SIDE[device.type]
    # Random numbers: a GPU multiplies zeros faster than any real data, because it draws less power.
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _fastest(device, lambda: torch.mm(a, b, out=out))


def _fastest(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds of the fastest pass but the first, which warms up: a ceiling is what nothing disturbs."""
    return min(Stopwatch(device).laps(work, _PASSES)[1:])


_NORM, _NORM_BACKWARD = "native_batch_norm", "native_batch_norm_backward"
_RELU: Final = ("relu", "relu_", "threshold_backward")
_ADD: Final = ("add", "add_")
_FUSED_ADD: Final = 1 / 3  # of two operands and a sum, the second operand alone is left to read
# Which inputs an operation reads once more, by their place.
_READ_AGAIN: Final[Mapping[str, Sequence[int]]] = {_NORM: (0,), _NORM_BACKWARD: (0, 1), "convolution_backward": (0,)}


@dataclass(frozen=True)
class Traffic:
    """Bytes an image: `eager`, each operation by itself; `norm_kernels`, each batch norm with its addition and ReLU as
    one operation; `fused_norm`, where ReLU and the residual addition cost no pass of their own; `convolutions`, where
    batch norm costs none either, and little more than convolutions is left.

    With the kernels of `model/fused_product.py` a ResNet-50 is between the last two: docs/scaling.md has it counted.
    """

    eager: float
    norm_kernels: float
    fused_norm: float
    convolutions: float


@dataclass(frozen=True)
class ImageWork:
    """What training on one image takes: FLOP (a multiplication and an addition are two) and memory traffic.

    Forward and backward pass with the weights' share of a micro-batch; not the optimizer, which works once a step.
    """

    flops: float
    traffic: Traffic


def count_work(recipe: Recipe, phase: Phase, num_classes: int) -> ImageWork:
    """Count the work of a micro-batch of `phase`, for an image of it. Nothing is computed: the tensors are empty."""
    dtype = AUTOCAST.get(recipe.precision, weight_dtype(recipe))
    network = empty_network(recipe, num_classes, phase.freeze, dtype).train()
    shape = (phase.micro_batch, 3, phase.image_size, phase.image_size)
    images = torch.empty(shape, dtype=dtype, device="meta").to(memory_format=torch.channels_last)
    labels = torch.empty(phase.micro_batch, dtype=torch.int64, device="meta")
    forward, backward = _BytesByOperation(), _BytesByOperation()
    with flop_counter() as flops:
        with forward:
            loss = F.cross_entropy(network(images), labels)
        with backward:
            torch.autograd.backward(loss)
    traffic = _traffic(forward.bytes, backward.bytes, phase.micro_batch, dtype.itemsize)
    return ImageWork(flops.get_total_flops() / phase.micro_batch, traffic)


def _traffic(forward: "Counter[str]", backward: "Counter[str]", images: int, itemsize: int) -> Traffic:
    both = forward + backward
    eager = both.total()
    relu = sum(both[name] for name in _RELU)
    # Additions of the forward pass are the residual ones; those of the backward pass sum gradients, and stay.
    fused_adds = (1 - _FUSED_ADD) * sum(forward[name] for name in _ADD)
    # The kernels make no pass for ReLU, and two over a residual's place, where an eager addition makes three: it is
    # read in the forward pass, its gradient written in the backward pass. A bit a value, the mask, is written and read.
    kernels = eager - relu - sum(forward[name] for name in _ADD) / 3 * (1 - 2 / (8 * itemsize))
    spared = relu + sum(both[name] for name in (_NORM, _NORM_BACKWARD, *_ADD))
    return Traffic(*(moved / images for moved in (eager, kernels, eager - relu - fused_adds, eager - spared)))


class _BytesByOperation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, adds up the bytes that each kind of operation reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            name = func.overloadpacket.__name__
            moved = [*tree_leaves((args, kwargs, out)), *(args[place] for place in _READ_AGAIN.get(name, ()))]
            self.bytes[name] += sum(tensor.nbytes for tensor in moved if isinstance(tensor, Tensor))
        return out
