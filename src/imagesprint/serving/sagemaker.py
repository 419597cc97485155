"""Hosting by Amazon SageMaker: a container started with the word `serve`, which answers `/ping` and `/invocations`.

The contract: docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html; the port in a pipeline of
containers: inference-pipeline-real-time.html there; the name of the variable for /opt/ml: parameters.py of
aws/sagemaker-inference-toolkit.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagesprint.checkpoints.naming import list_checkpoints
from imagesprint.errors import UsageError
from imagesprint.files import naming

_FOLDER_VARIABLE: Final = "SAGEMAKER_BASE_DIR"
_FOLDER: Final = "/opt/ml"
_PORT_VARIABLE: Final = "SAGEMAKER_BIND_TO_PORT"
_PORT: Final = "8080"
_ANY_HOST: Final = "0.0.0.0"
_SUFFIXES: Final = (".onnx", ".pt")  # of an exported model and of a checkpoint


@dataclass(frozen=True)
class Container:
    """What a container serves, and where it listens."""

    model: Path
    host: str
    port: int


def find_container() -> Container:
    """Find the model that SageMaker unpacked, and the port it calls, where the command line names neither.

    Raises UsageError where there is no such folder, or not one model in it, FileError where it cannot be read.
    """
    folder = Path(os.environ.get(_FOLDER_VARIABLE, _FOLDER)) / "model"
    if not folder.is_dir():
        hint = f"`imagesprint serve RUN`; without MODEL it serves what SageMaker unpacks into {folder}"
        raise UsageError(f"no MODEL is given, and there is no folder {folder}", hint)
    port = os.environ.get(_PORT_VARIABLE, _PORT)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 1 << 16):
        raise UsageError(f"{_PORT_VARIABLE} is {port!r}", "it is the number of a port, 1 to 65535")
    return Container(_only_model(folder), _ANY_HOST, int(port))


def _only_model(folder: Path) -> Path:
    """The one run, checkpoint or exported file in `folder`, which may be a run itself."""
    with naming("read", folder):
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))  # as macOS's tar adds
    found = [path for path in (folder, *inside) if path.is_dir() and list_checkpoints(path)]
    found += [path for path in inside if path.suffix.lower() in _SUFFIXES and path.is_file()]
    if len(found) == 1:
        return found[0]
    what = f"several models: {', '.join(map(str, found))}" if found else "no run, checkpoint or exported .onnx file"
    raise UsageError(f"{folder} holds {what}", "put one of these alone into model.tar.gz, or name MODEL")
