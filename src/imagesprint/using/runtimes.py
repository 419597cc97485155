"""What carries a model out: PyTorch, ONNX Runtime, OpenVINO; to a caller all alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagesprint.errors import UsageError
from imagesprint.model.weights import TrainedModel

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # RGB images [N, H, W, 3] → logits [N, num_classes]

_CUDA_PROVIDER = "CUDAExecutionProvider"


def in_torch(model: Callable[[Tensor], Any], device: str = "cpu") -> Infer:
    """Run `model`, which is on `device` and takes and gives what a TrainedModel does, in PyTorch."""

    @torch.inference_mode()
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model(torch.from_numpy(images).to(device)).cpu().numpy()
        return logits

    return infer


def compiled(model: TrainedModel, device: str = "cpu") -> Infer:
    """As `in_torch`, compiled for each shape when it first comes."""
    return in_torch(torch.compile(model, dynamic=False), device)


def in_onnx_runtime(file: Path, threads: int = 0, device: str = "cpu") -> Infer:
    """Run the ONNX file in ONNX Runtime with `threads` threads, 0 for one a core. Raises UsageError without it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", error) from error
    if device == "cuda" and _CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise UsageError("this onnxruntime cannot use CUDA", "install onnxruntime-gpu in its place")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    provider = _CUDA_PROVIDER if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(file), options, providers=[provider])

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(None, {"images": images})[0]
        return logits

    return infer


def in_openvino(file: Path, threads: int) -> Infer:
    """Run the ONNX file in OpenVINO on the CPU with `threads` threads. Raises UsageError without it."""
    try:
        import openvino
    except ImportError as error:
        raise missing("openvino", error) from error
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    program = openvino.Core().compile_model(str(file), "CPU", settings)

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = program(images)[0]
        return logits

    return infer


def missing(package: str, error: ImportError) -> UsageError:
    """The error for a package that is needed and cannot be imported."""
    hint = "pip install openvino" if package == "openvino" else "pip install 'imagesprint[export]'"
    return UsageError(f"the package {package} cannot be imported: {error}", hint)
