"""Whether a network trains by our own kernels: on a GPU, in half precision, if they do there what torch's do."""

import copy

import torch
from torch import Tensor, nn

from imagesprint.model.batch_norm import batch_norms

FUSED_DEVICE = "cuda"  # for which the kernels were written
_IMAGES, _PIXELS = 16, 64  # of the trial: each kernel once, in the blocks that training has


def fuse_where_it_works(network: nn.Module, dtype: torch.dtype | None) -> str | None:
    """Have `network`, on a GPU, train in autocast to `dtype` by our own kernels, if a trial of them comes out well.

    Return why not, if so; what `network` holds is left alone. None where nothing was to be fused, too: on a CPU, or
    without autocast.
    """
    device = next(network.parameters()).device
    if device.type != FUSED_DEVICE or dtype is None:
        return None
    try:
        from imagesprint.model.fused_resnet import fuse
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    trial = copy.deepcopy(network)
    for norm in batch_norms(trial):
        nn.init.ones_(norm.weight)  # those that begin at zero would hide what is before them
    try:
        exact, plain = (_gradients(trial, device, kind) for kind in (None, dtype))
        fuse(trial)
        off, usual = ((given - exact).norm() for given in (_gradients(trial, device, dtype), plain))
        if not off <= 2 * usual:
            return f"they give gradients {off / usual:.3g} times as far from those in float32 as torch's kernels do"
    except Exception as error:  # whatever Triton's compiler, ptxas or the driver makes of a kernel
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    fuse(network)
    return None


def is_fused(network: nn.Module) -> bool:
    """Whether `network` trains by our own kernels."""
    return any(norm.fused is not None for norm in batch_norms(network))


def _gradients(network: nn.Module, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """All gradients of a step on noise, one after another."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_IMAGES, 3, _PIXELS, _PIXELS, generator=generator).to(device)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    wanted = torch.randn(logits.shape, generator=generator).to(device)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    found = torch.autograd.grad((logits.float() * wanted).mean(), parameters)
    return torch.cat([gradient.flatten() for gradient in found])
