"""The bytes that training on one image moves, counted from the code that torch.compile generates for an H200.

    python benchmarks/step_bytes.py [--plain] [--micro-batch N] [--size PX] [--json FILE]

No GPU is needed: the network is traced with empty tensors, and Inductor compiles for a device that is only described to
it. What it schedules is counted, a row a kernel:

- a kernel of Inductor's: each buffer that it reads and each that it writes once, or as much of it as it touches. So a
  reduction that must read its input twice counts it once; a kernel of each pass counts it twice.
- a convolution, a matrix product: each operand and each result once; a convolution's backward pass is two kernels, of
  which both read the gradient.
- our own operations (model/fused_norm.py, fused_product.py): run with kernels that note their arguments, each argument
  once a kernel.
- behind the compiled part: each gradient added to the step's sums; a step's share of the optimizer.

That caches keep something between two kernels is not counted, nor that a product reads an operand again for another
block of its columns. `--plain` leaves our kernels out.
"""

import argparse
import copy
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import torch
import triton
from torch import Tensor, nn
from torch._dynamo.device_interface import CudaInterface
from torch._functorch import config as functorch_config
from torch._inductor import compile_fx, config
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import BaseSchedulerNode, ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._library.custom_ops import OPDEFS
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils._triton import has_triton
from triton.backends.compiler import GPUTarget

from imagesprint.model import fused_norm, fused_product
from imagesprint.model.building import build_model, normalize
from imagesprint.model.fused_resnet import fuse
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe

CLASSES: Final = 1000
STEP: Final = 2048  # images, of minutes104 at 224 px
DEVICE: Final = torch.device("cuda:0")
H200: Final = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block_optin=232448,
    L2_cache_size=50 << 20,
    total_memory=141 << 30,
    gcnArchName="",
)


@contextmanager
def described() -> Iterator[None]:
    """While it is open, torch's Python code believes in one H200, as far as Inductor asks."""
    state = torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: H200,
        "get_device_capability": lambda *_: (H200.major, H200.minor),
        "get_rng_state": lambda *_: state,
        "set_rng_state": lambda *_: None,
        "synchronize": lambda *_: None,
        "_exchange_device": lambda *_: 0,
        "_maybe_exchange_device": lambda *_: 0,
        "_lazy_init": lambda: None,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
            if hasattr(CudaInterface, name.removeprefix("_")):
                stack.enter_context(mock.patch.object(CudaInterface, name.removeprefix("_"), staticmethod(answer)))
        stack.enter_context(
            mock.patch.object(CudaInterface.Worker, "get_device_properties", staticmethod(lambda *_: H200))
        )
        stack.enter_context(mock.patch.object(torch.version, "cuda", "12.8"))
        has_triton.cache_clear()
        yield
    has_triton.cache_clear()


class _CountedError(Exception):
    """Raised where Inductor would load its code, which nothing here could run."""


@dataclass(frozen=True)
class Row:
    """A kernel of the forward or the backward pass, and the bytes that it moves for a micro-batch."""

    pass_name: str
    kind: str
    name: str
    size: int


class Kernels:
    """Compiles graphs for DEVICE, the first of which is the forward pass, and notes a row for each kernel."""

    def __init__(self, micro_batch: int) -> None:
        self.rows: list[Row] = []
        self._micro_batch = micro_batch
        self._passes = iter(("forward", "backward"))

    def compile(self, graph: torch.fx.GraphModule, inputs: list[Any], **settings: Any) -> Callable[..., Any]:
        """Count `graph`, given for the CPU; return a function that runs it as it was given, with empty tensors."""
        mode = torch._guards.detect_fake_mode(inputs)
        assert mode is not None
        moved = copy.deepcopy(graph)
        for node in moved.graph.nodes:
            node.args, node.kwargs = tree_map(_moved_device, (node.args, dict(node.kwargs)))
        with mode:
            inputs = [_moved(value) for value in inputs]
        with described(), mock.patch.object(GraphLowering, "compile_to_module", lambda graph: self._count(graph)):
            FakeTensorProp(moved, mode).propagate_dont_convert_inputs(*inputs)
            try:
                compile_fx.compile_fx_inner(moved, inputs, **settings)
            except Exception as error:
                if not isinstance(getattr(error, "inner_exception", error), _CountedError):
                    raise

        def run(given: list[Any]) -> Any:
            return graph(*given)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def _count(self, graph: GraphLowering) -> None:
        graph.codegen()
        which, calls = next(self._passes), 0
        for node in graph.scheduler.nodes:
            if isinstance(node, ExternKernelSchedulerNode):
                calls += not isinstance(node.node, MultiOutput)
            elif not isinstance(node, NopKernelSchedulerNode):
                self.rows.append(Row(which, self._kind(node, which), node.get_name(), _size(node)))
        called = [node for node in graph.orig_gm.graph.nodes if isinstance(node.target, OpOverload) and _is_call(node)]
        if len(called) != calls:
            raise AssertionError(f"the {which} pass calls {calls} functions, {len(called)} are counted")
        for call in called:
            self.rows.extend(Row(which, kind, name, size) for kind, name, size in _rows_of(call, which))
        raise _CountedError

    def _kind(self, node: BaseSchedulerNode, which: str) -> str:
        origins = {str(origin.target) for part in node.get_nodes() for origin in part.node.get_origins()}
        if any("max_pool" in name for name in origins):
            return "pooling"
        buffers = (V.graph.try_get_buffer(name) for name in node.get_read_write_buffer_accesses(True, True))
        shapes = [buffer.get_size() for buffer in buffers if buffer is not None and buffer.has_tensor_output()]
        if any(len(shape) == 4 and shape[0] == self._micro_batch for shape in shapes):
            return f"norm, ReLU, addition: {which}"
        return "weights' casts" if all("_to_copy" in n or "convert" in n for n in origins) else "the rest"


def _size(node: BaseSchedulerNode) -> int:
    size = node.get_read_write_buffers_sizes()
    return int(size)


def _moved_device(value: Any) -> Any:
    return DEVICE if isinstance(value, torch.device) else value


def _moved(value: Any, device: torch.device | str = DEVICE) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)


_PRODUCTS: Final = ("aten.convolution.", "aten.convolution_backward.", "aten.mm.", "aten.addmm.")


def _is_call(node: torch.fx.Node) -> bool:
    """Whether Inductor leaves `node` to a library, or to us."""
    return str(node.target).startswith((*_PRODUCTS, "imagesprint."))


def _rows_of(call: torch.fx.Node, which: str) -> Iterator[tuple[str, str, int]]:
    """Yield kind, name and bytes of each kernel that `call` runs."""
    args, out = (
        tree_map(lambda arg: arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg, call.args),
        call.meta["val"],
    )
    name = str(call.target)
    if name.startswith("imagesprint."):
        yield from _our_rows(name.split(".")[1], args, which)
    elif "convolution_backward" in name:
        gradient, x, weight = args[:3]
        for place, operands in ((0, (gradient, weight)), (1, (gradient, x))):
            if args[10][place]:
                yield f"convolution: {which}", name, _bytes((*operands, out[place]))
    else:
        yield f"convolution: {which}" if "convolution" in name else "the rest", name, _bytes((args, out))


def _bytes(tensors: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))


def _our_rows(name: str, args: Any, which: str) -> Iterator[tuple[str, str, int]]:
    """Run our operation `name` on empty tensors with its kernels replaced by ones that note what they are given."""
    noted: list[tuple[str, int]] = []

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if not func.is_view and "empty" not in str(func):
                noted.append((str(func), _bytes((args, out))))
            return out

    class Noted:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return self._launch

        def _launch(self, *args: Any, **kwargs: Any) -> None:
            tensors = [arg for arg in tree_leaves((args, kwargs)) if isinstance(arg, Tensor)]
            distinct = {(t.untyped_storage()._cdata, t.storage_offset(), t.shape): t for t in tensors}
            noted.append((self._name, _bytes(list(distinct.values()))))

    operation = OPDEFS[f"imagesprint::{name}"]
    args = tree_map(lambda value: _moved(value, "meta"), args)
    with ExitStack() as stack:
        for module in (fused_norm, fused_product):
            kernels = {key: Noted(key) for key in vars(module) if key.endswith("_kernel")}
            stack.enter_context(mock.patch.multiple(module, **kernels))
        stack.enter_context(Noting())
        operation._init_fn(*args)
    for kernel, size in noted:
        kind = next((kind for mark, kind in OURS.items() if mark in kernel), "norm, ReLU, addition")
        yield f"{kind}: {which}" if kind != "pooling" else kind, kernel, size


OURS: Final = {"pool": "pooling", "product": "convolution"}


def count(recipe: Recipe, micro_batch: int, size: int, fused: bool) -> list[Row]:
    """Return a row for each kernel of a micro-batch's training, and of its share of a step."""
    network = build_model(recipe, CLASSES).train()
    if fused:
        fuse(network)
    kernels = Kernels(micro_batch)
    with ExitStack() as stack:
        # cuDNN's choice, which a build without CUDA does not know
        answer = mock.patch.object(torch._C, "_conv_determine_backend_memory_format", return_value=torch.channels_last)
        folder = stack.enter_context(TemporaryDirectory())
        stack.enter_context(mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder))
        for context in (
            functorch_config.patch(enable_autograd_cache=False),
            config.patch(force_disable_caches=True),
            answer,
            FakeTensorMode(),
        ):
            stack.enter_context(context)
        for module in network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty_strided(parameter.shape, parameter.stride())))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty_strided(buffer.shape, buffer.stride(), dtype=buffer.dtype))
        images = torch.empty((micro_batch, size, size, 3), dtype=torch.uint8)
        labels = torch.empty(micro_batch, dtype=torch.int64)
        mean, std = torch.empty(3), torch.empty(3)

        def forward(images: Tensor, labels: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(normalize(images, mean, std))
            return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)

        backend = partial(compile_fx.compile_fx, inner_compile=kernels.compile)
        loss: Tensor = torch.compile(forward, backend=backend, fullgraph=True, dynamic=False)(images, labels)
        torch.autograd.backward(loss)
    weights = sum(4 * parameter.numel() for parameter in network.parameters())
    kernels.rows.append(Row("backward", "sums of gradients", "gradient added to its sum", 3 * weights))
    # Weight, gradient and momentum are read, weight and momentum written, once a step.
    share = 5 * weights * micro_batch // STEP
    kernels.rows.append(Row("update", "optimizer", "a micro-batch's share", share))
    return kernels.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--micro-batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = replace(load_recipe("minutes104"), model=args.model, precision="bf16")
    # Triton's own answer, for Inductor's code has the target in its comments
    triton.runtime.driver.set_active(SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32)))
    rows = count(recipe, args.micro_batch, args.size, not args.plain)
    totals: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for row in rows:
        totals[row.kind] += row.size
        numbers[row.kind] += 1
    for kind, size in sorted(totals.items()):
        print(f"{kind:40} {numbers[kind]:5} {size / args.micro_batch / 1e6:8.2f}")
    print(f"{'all':40} {numbers.total():5} {totals.total() / args.micro_batch / 1e6:8.2f}")
    if args.json:
        args.json.write_text(json.dumps([vars(row) for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
