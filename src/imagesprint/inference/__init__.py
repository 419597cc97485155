"""A trained model in use: predicting images, exporting it, running it elsewhere."""

from typing import Final

SUFFIXES: Final = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
RUNTIMES: Final = ("auto", "torch", "onnx", "openvino")  # `open_model` says what each is
