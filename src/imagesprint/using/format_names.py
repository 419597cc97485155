"""The formats that a model is exported in, and what their files' names end in. Without torch, for --help."""

from typing import Final

SUFFIXES: Final = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
