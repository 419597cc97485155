"""A graph whose convolutions compute in 8 bits: by the ranges that its tensors have on images, without training.

In the graph stands what is computed in floats, and QuantizeLinear and DequantizeLinear where it is rounded to 8 bits
(QDQ): ONNX Runtime and OpenVINO make operations on integers of it, each its own. Rounded are

- activations to uint8, by the least and the greatest value that came. Clipping them (the 99.9 to 99.999 percentile,
  the least squared error, the least divergence as TensorRT has it) was worse or no better on trained ResNets;
- weights a channel to int8 of −63..63: a product of two pairs, 2 · 255 · 63, then fits into 16 bits, which is where
  processors without VNNI add them and would saturate. So a file says the same on every processor;
- biases to int32, by the product of both scales.

Add gets both of its inputs rounded, and a ReLU behind an operation belongs to it: so whole residual blocks stay in
integers. Normalisation is computed in floats: its result is the first tensor that is rounded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from imagesprint.errors import CheckpointError

Range = tuple[float, float]  # the least and the greatest value, 0 among them

_WEIGHTED: Final = ("Conv", "Gemm")
_ROUNDED: Final = (*_WEIGHTED, "Add", "MaxPool", "GlobalAveragePool", "ReduceMean")  # in integers, their inputs rounded
_WEIGHT_LEVELS: Final = 63  # on each side of 0
_ACTIVATION_LEVELS: Final = 255
_TINY: Final = 1e-12  # a scale, where all that came is 0
_BIAS_LEVELS: Final = 2**30  # a bias of more would not fit into int32


def quantised(graph: bytes, batches: Iterable[NDArray[np.uint8]]) -> bytes:
    """`graph`, an encoded ModelProto that takes uint8 `images`, with what `batches` show it to need to be in 8 bits.

    The same images give the same bytes, however they are divided into batches. Raises CheckpointError where an
    activation is no number.
    """
    model = onnx.load_from_string(graph)
    names = _to_round(model.graph)
    encoded: bytes = _Rounding(model, _ranges(model, names, batches)).model.SerializeToString()
    return encoded


def _to_round(graph: onnx.GraphProto) -> list[str]:
    """The names of the activations that go into and come out of _ROUNDED, in the graph's order; logits stay floats."""
    constants = {tensor.name for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    relus = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
    outputs = {value.name for value in graph.output}
    # Sums of sizes, as padding by TensorFlow's rule has them, are no activations
    whole = {value.name for value in graph.value_info if value.type.tensor_type.elem_type != TensorProto.FLOAT}
    names: dict[str, None] = {}
    for node in graph.node:
        if node.op_type in _ROUNDED and whole.isdisjoint((*node.input, *node.output)):
            names.update(dict.fromkeys(name for name in node.input if name and name not in constants))
            result = node.output[0]
            names[relus[result] if uses[result] == 1 and result in relus else result] = None
    return [name for name in names if name not in outputs]


def _ranges(model: onnx.ModelProto, names: list[str], batches: Iterable[NDArray[np.uint8]]) -> dict[str, Range]:
    """What the activations `names` of `model` reach on `batches`."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    least, most = np.zeros(len(names), np.float32), np.zeros(len(names), np.float32)
    for images in batches:
        values = session.run(None, {"images": images})
        least = np.minimum(least, [value.min() for value in values])
        most = np.maximum(most, [value.max() for value in values])
    if not np.isfinite([least, most]).all():
        raise CheckpointError(
            "the model gives no numbers: its weights are beyond what float32 holds", "use another checkpoint"
        )
    ranges = dict(zip(names, zip(least.tolist(), most.tolist(), strict=True), strict=True))
    for node in model.graph.node:
        if node.op_type == "MaxPool":  # it chooses among its inputs: the same scale makes that exact
            ranges[node.output[0]] = ranges[node.input[0]]
    return ranges


class _Rounding:
    """Rewrites `model` in place: every activation that has a range is rounded where it comes into being."""

    def __init__(self, model: onnx.ModelProto, ranges: dict[str, Range]) -> None:
        self.model, self._graph = model, model.graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._graph.initializer}
        self._scales = {name: _scale(*ends) for name, ends in ranges.items()}
        nodes: list[NodeProto] = []
        for node in self._graph.node:
            nodes += self._rounded(node)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:], self._graph.value_info[:]
        self._graph.initializer.extend(kept)

    def _rounded(self, node: NodeProto) -> Iterator[NodeProto]:
        """`node`, which takes what is rounded, with what must stand before and behind it."""
        if node.op_type in _WEIGHTED and node.input[0] in self._scales and node.input[1] in self._constants:
            yield from self._round_weights(node)
        for number, name in enumerate(node.input):
            if name in self._scales:
                node.input[number] = f"{name}.rounded"
        yield node
        for name in node.output:
            if name in self._scales:
                scale, zero = self._scales[name]
                constants = self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero", zero)
                yield helper.make_node("QuantizeLinear", [name, *constants], [f"{name}.uint8"])
                yield helper.make_node("DequantizeLinear", [f"{name}.uint8", *constants], [f"{name}.rounded"])

    def _round_weights(self, node: NodeProto) -> Iterator[NodeProto]:
        """Have `node` take rounded constants in place of its weights and its bias."""
        weights, bias = (self._constants.get(name) for name in [*node.input, "", ""][1:3])
        assert weights is not None
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axis = 1 if node.op_type == "Gemm" and not transposed else 0  # of the outputs
        input_scale = self._scales[node.input[0]][0]
        scale = np.abs(weights).max(tuple({*range(weights.ndim)} - {axis})) / _WEIGHT_LEVELS
        if bias is not None:
            scale = np.maximum(scale, np.abs(bias) / (_BIAS_LEVELS * input_scale))
        scale = np.maximum(scale, _TINY).astype(np.float32)
        levels = weights / np.expand_dims(scale, [other for other in range(weights.ndim) if other != axis])
        name = node.output[0]
        node.input[1] = f"{name}.weights"
        yield self._constant_rounded(f"{name}.weights", levels.round().astype(np.int8), scale, axis)
        if bias is not None:
            node.input[2] = f"{name}.bias"
            bias_scale = scale * input_scale
            yield self._constant_rounded(f"{name}.bias", (bias / bias_scale).round().astype(np.int32), bias_scale, 0)

    def _constant_rounded(
        self, name: str, levels: NDArray[np.integer], scale: NDArray[np.float32], axis: int
    ) -> NodeProto:
        zeros = self._constant(f"{name}.zero", np.zeros(len(scale), levels.dtype))
        constants = [self._constant(f"{name}.levels", levels), self._constant(f"{name}.scale", scale), zeros]
        return helper.make_node("DequantizeLinear", constants, [name], axis=axis)

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _scale(least: float, most: float) -> tuple[np.float32, np.uint8]:
    """The scale of an activation and the level that stands for 0."""
    scale = max(most - least, _TINY) / _ACTIVATION_LEVELS
    return np.float32(scale), np.uint8(round(-least / scale))
