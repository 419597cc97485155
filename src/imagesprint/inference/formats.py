"""What carries a model out (PyTorch, ONNX Runtime, OpenVINO), and each export format in its runtime."""

import importlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.errors import RunError, UsageError
from imagesprint.inference.onnx_files import DESCRIPTION, sealed
from imagesprint.model.building import build_model
from imagesprint.recipes.serialization import to_dict

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # RGB images [N, H, W, 3] → logits [N, num_classes]

_CUDA_PROVIDER = "CUDAExecutionProvider"
_CENTRES: Final = {  # by a recipe's eval_shape
    "square": "the centre square of image_size",
    "rectangle": "the centre, whose shorter side is image_size and whose longer side is, to the nearest sixth of that, "
    "in the image's own ratio, at most twice as long",
}


def in_torch(model: Callable[[Tensor], Any], device: str | torch.device = "cpu") -> Infer:
    """Run `model`, which is on `device` and takes and gives what a TrainedModel does, in PyTorch."""

    @torch.inference_mode()
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model(torch.from_numpy(images).to(device)).cpu().numpy()
        return logits

    return infer


def compiled(model: TrainedModel, device: str = "cpu") -> Infer:
    """As `in_torch`, compiled for each shape when it first comes."""
    return in_torch(torch.compile(model, dynamic=False), device)


def has_cuda_provider() -> bool:
    """Whether ONNX Runtime can use CUDA here. Raises UsageError without it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", error) from error
    return _CUDA_PROVIDER in onnxruntime.get_available_providers()


def in_onnx_runtime(content: bytes, threads: int = 0, device: str = "cpu") -> Infer:
    """Run what an ONNX file holds in ONNX Runtime with `threads` threads, by default one a core.

    Raises UsageError without it, and where it cannot use CUDA though `device` is cuda.
    """
    if device == "cuda" and not has_cuda_provider():
        raise UsageError("this onnxruntime cannot use CUDA", "install onnxruntime-gpu in its place")
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    provider = _CUDA_PROVIDER if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(content, options, providers=[provider])

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(None, {"images": images})[0]
        return logits

    return infer


def in_openvino(content: bytes, image_size: int, threads: int = 0) -> Infer:
    """Run what an ONNX file holds in OpenVINO on the CPU with `threads` threads, by default one a core.

    Images are then squares of `image_size` alone, which it plans for; with 0 it plans for none. Raises UsageError
    without it.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing("openvino", error) from error
    count = threads or len(os.sched_getaffinity(0))
    settings = {"INFERENCE_NUM_THREADS": count, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    model = core.read_model(content)
    side = image_size or -1
    model.reshape([-1, side, side, 3])
    program = core.compile_model(model, "CPU", settings)

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = program(images)[0]
        return logits

    return infer


def missing(package: str, error: ImportError) -> UsageError:
    """The error for a package that is needed and cannot be imported."""
    hint = "pip install openvino" if package == "openvino" else "pip install 'imagesprint[export]'"
    return UsageError(f"the package {package} cannot be imported: {error}", hint)


@dataclass(frozen=True)
class Format:
    """`encode` makes a model's file, `open` runs that file; `packages` are needed beyond what is always installed."""

    packages: tuple[str, ...]
    runtime: str  # the package whose runtime `open` uses
    encode: Callable[[TrainedModel], bytes]
    open: Callable[[Path, TrainedModel], Infer]

    def check_packages(self) -> None:
        """Raise UsageError where a package is missing."""
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise missing(package, error) from error


def describe(model: TrainedModel) -> dict[str, object]:
    """What one must know to use the model without imagesprint: plain types for JSON."""
    shape = model.recipe.eval_shape
    return {
        "made_by": "imagesprint",
        "model": model.recipe.model,
        "input": f"images: uint8 [batch, height, width, 3], RGB; shorter side to resize, then {_CENTRES[shape]}",
        "resize": model.recipe.eval_resize,
        "image_size": model.recipe.eval_image_size,
        "shape": shape,
        "output": "logits: float32 [batch, classes]; softmax gives probabilities",
        "classes": [{"name": name, "text": text} for name, text in zip(model.classes, model.class_texts, strict=True)],
        "mean": list(model.recipe.mean),
        "std": list(model.recipe.std),
        "step": model.step,
        "num_train": model.num_train,
        "precision": "fp32",
        "recipe": to_dict(model.recipe),
    }


class _ForOnnx(nn.Module):
    """A TrainedModel whose normalisation is one operation on [N, 3, H, W].

    ONNX Runtime broadcasts over the innermost axis of [N, H, W, 3], which is 3 long, value by value: as `normalize` has
    it, it takes 1.2 ms of one core at 224 px, a twentieth of a ResNet-50 in int8, so 0.2 ms (an EPYC 9004).
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = model.network
        self.register_buffer("mean", model.mean)
        self.register_buffer("variance", model.std * model.std)

    def forward(self, images: Tensor) -> Tensor:
        images = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        logits: Tensor = self.network(F.batch_norm(images, self.mean, self.variance, eps=0.0))
        return logits


def graph(model: TrainedModel) -> bytes:
    """The model as an encoded ModelProto, with batch norms folded into the convolutions before them.

    In the opset that this torch's exporter is made for: 20 in torch 2.13. Raises RunError where it cannot be exported.
    """
    shapes = {"images": {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}}
    with _exporting(model, "onnx"):
        program = torch.onnx.export(
            _ForOnnx(model),
            (_example(model),),
            dynamo=True,
            verbose=False,
            dynamic_shapes=shapes,
            output_names=["logits"],
        )
        assert program is not None  # dynamo=True gives one
        encoded: bytes = program.model_proto.SerializeToString()
    return encoded


def _encode_onnx(model: TrainedModel) -> bytes:
    return sealed(graph(model), describe(model))


def _open_onnx(file: Path, _: TrainedModel) -> Infer:
    return in_onnx_runtime(file.read_bytes())


def _encode_torch(model: TrainedModel) -> bytes:
    buffer = io.BytesIO()
    shapes = {"images": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}}
    with _exporting(model, "torch"):
        program = torch.export.export(model, (_example(model),), dynamic_shapes=shapes)
        torch.export.save(program, buffer, extra_files={f"{DESCRIPTION}.json": json.dumps(describe(model))})
    return buffer.getvalue()


def _open_torch(file: Path, _: TrainedModel) -> Infer:
    with file.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own internals
        return in_torch(torch.export.load(stream).module())


def _encode_safetensors(model: TrainedModel) -> bytes:
    from safetensors.torch import save

    weights = {key: value.contiguous() for key, value in model.network.state_dict().items()}  # not channels_last
    return save(weights, {"format": "pt", DESCRIPTION: json.dumps(describe(model))})


def _open_safetensors(file: Path, model: TrainedModel) -> Infer:
    from safetensors.torch import load_file

    network = build_model(model.recipe, len(model.classes))
    network.load_state_dict(load_file(file))
    return in_torch(TrainedModel(network, model.recipe, model.classes, model.num_train).eval())


def _example(model: TrainedModel) -> torch.Tensor:
    """Images to trace with: more than one, for torch.export takes a size of 1 for fixed; height and width differ."""
    size = model.recipe.eval_image_size
    return torch.zeros(2, size, size + 32, 3, dtype=torch.uint8)


@contextmanager
def _exporting(model: TrainedModel, name: str) -> Iterator[None]:
    """Keep torch's exporters quiet, and make what they raise an error of ours."""
    logger = logging.getLogger("torch.onnx")  # it tells everybody that torchvision is not installed
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own internals
            yield
    except Exception as error:  # whatever torch and onnxscript come upon in somebody else's network
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{model.recipe.model} cannot be exported with --format {name}: {type(error).__name__}: {reason}",
            "--format safetensors takes any model",
        ) from error
    finally:
        logger.setLevel(level)


FORMATS: Final = {
    "onnx": Format(("onnxscript", "onnxruntime"), "onnxruntime", _encode_onnx, _open_onnx),
    "torch": Format((), "torch", _encode_torch, _open_torch),
    "safetensors": Format(("safetensors",), "safetensors", _encode_safetensors, _open_safetensors),
}
