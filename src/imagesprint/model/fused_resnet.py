"""How a ResNet trains on a GPU: with the operations of fused_norm.py, where they do what its own layers do."""

from torch import Tensor, nn

from imagesprint.model.batch_norm import BatchNorm2d, batch_norms
from imagesprint.model.fused_norm import Partial, fused_norm, norm_pool
from imagesprint.model.fused_product import norm_product
from imagesprint.model.resnet import BasicBlock, Bottleneck, ResNet

_NONE = (None, None)


def fuse(network: nn.Module) -> None:
    """Have `network` train by the kernels of fused_norm.py from now on, all of it or its batch norms; they need a GPU.

    It changes results by rounding alone.
    """
    for norm in batch_norms(network):
        norm.fused = fused_norm
    if isinstance(network, ResNet) and _fits(network):
        network.fused = _forward


def _fits(network: ResNet) -> bool:
    """Whether it has the stem of `norm_pool`, and 1×1 convolutions at both ends of each block that do not stride.

    Nothing may stand between a block's last batch norm and its addition.
    """
    blocks = [block for block in network.modules() if isinstance(block, Bottleneck | BasicBlock)]
    return isinstance(network.maxpool, nn.MaxPool2d) and all(
        isinstance(block, Bottleneck)
        and block.conv1.stride == (1, 1)
        and isinstance(block.blur2, nn.Identity)
        and block.se is None
        for block in blocks
    )


def _forward(network: ResNet, images: Tensor) -> Tensor:
    """Return the logits of `images` in training mode, as `network` itself; for one that `_fits`.

    Each batch norm takes in what follows it: the first the max-pooling, a block's second its last convolution, and a
    block's last addition, ReLU and the next block's first convolution.
    """
    blocks = [block for block in network.modules() if isinstance(block, Bottleneck)]
    norm = network.bn1
    x, mean, variance = norm_pool(network.conv1(images), norm.weight, norm.bias, norm.eps)
    norm.keep(mean, variance)
    first: Tensor = blocks[0].conv1(x)
    partial: Partial | tuple[None, None] = _NONE
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        inner = block.conv2(_norm(block.bn1, first, None, partial))
        block.bn2.check(inner)
        _, last, partial = _product(block.bn2, inner, None, block.conv3, _NONE)
        residual = block.downsample(x)
        if following is None:
            x = _norm(block.bn3, last, residual, partial)
        else:
            x, first, partial = _product(block.bn3, last, residual, following.conv1, partial)
    logits: Tensor = network.fc(x.mean((2, 3)))
    return logits


def _norm(norm: BatchNorm2d, x: Tensor, residual: Tensor | None, partial: Partial | tuple[None, None]) -> Tensor:
    out, mean, variance = fused_norm(x, norm.weight, norm.bias, residual, True, norm.eps, partial)
    norm.keep(mean, variance)
    return out


def _product(
    norm: BatchNorm2d, x: Tensor, residual: Tensor | None, convolution: nn.Conv2d, partial: Partial | tuple[None, None]
) -> tuple[Tensor, Tensor, Partial]:
    kernel = convolution.weight.to(x.dtype)
    out, product, following, mean, variance = norm_product(
        x, norm.weight, norm.bias, residual, kernel, norm.eps, partial
    )
    norm.keep(mean, variance)
    return out, product, following
