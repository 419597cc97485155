"""Whether a network trains by our kernels: the trial, what is said where one is refused or computes other things."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from imagesprint.model import fusing
from imagesprint.model.fusing import fuse_where_it_works
from imagesprint.model.resnet import Architecture, ResNet

# In Triton's interpreter, on a CPU; a line for each: why not, if so, and whether all is as it should be.
PROGRAM = """
import torch
from imagesprint.model import fused_product, fusing
from imagesprint.model.building import to_channels_last
from imagesprint.model.resnet import Architecture, ResNet

fusing._IMAGES, fusing._PIXELS, fusing.FUSED_DEVICE = 4, 32, "cpu"
right = fused_product.product_gradient_kernel

class Refused:
    def __getitem__(self, grid):
        raise RuntimeError("out of resources: shared memory\\nRequired: more")

class Wrong:
    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            right[grid](*args, **kwargs)
            args[9].mul_(-1)
        return launch

for kernel in right, Refused(), Wrong():
    fused_product.product_gradient_kernel = kernel
    network = to_channels_last(ResNet(Architecture((2,), True, (16,)), 5)).train()
    before = [value.clone() for value in network.state_dict().values()]
    why = fusing.fuse_where_it_works(network, torch.float16)
    fused = [network.fused is not None, network.bn1.fused is not None]
    alone = all(torch.equal(*pair) for pair in zip(before, network.state_dict().values()))
    alone = alone and all(parameter.grad is None for parameter in network.parameters())
    print(alone and fused == [why is None] * 2, why)
"""


def test_our_kernels_train_if_a_trial_of_them_comes_out_well() -> None:
    pytest.importorskip("triton", reason="there is no Triton for this platform")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    words = (sys.executable, "-c", PROGRAM)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    right, refused, wrong = done.stdout.splitlines()
    assert right == "True None"
    assert refused == "True RuntimeError: out of resources: shared memory"
    assert wrong.startswith("True they give gradients ")


def test_without_triton_torch_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "FUSED_DEVICE", "cpu")
    monkeypatch.setitem(sys.modules, "imagesprint.model.fused_resnet", None)
    network = ResNet(Architecture((1,), True, (8,)), 5)
    said = fuse_where_it_works(network, torch.bfloat16)
    assert said is not None
    assert said.startswith("Triton cannot be imported")
    assert network.fused is None


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_cpu_has_nothing_to_fuse(dtype: torch.dtype | None) -> None:
    network: nn.Module = ResNet(Architecture((1,), True, (8,)), 5)
    assert fuse_where_it_works(network, dtype) is None
    assert network.fused is None
