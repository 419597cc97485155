"""Hosting by Amazon SageMaker: a container started with the word `serve`, which answers `/ping` and `/invocations`.

The contract: docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html; the port in a pipeline of
containers: inference-pipeline-real-time.html there; the name of the variable for /opt/ml: parameters.py of
aws/sagemaker-inference-toolkit.
"""

import os
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from imagesprint.checkpoints.naming import list_checkpoints
from imagesprint.errors import UsageError
from imagesprint.files import naming
from imagesprint.serving.endpoints import DEFAULT_TOP, MULTIPART, File, content_type_of, predict_body, predict_files
from imagesprint.serving.inference_messages import decode_files, read_object
from imagesprint.serving.refusals import BadRequestError, UnsupportedError
from imagesprint.serving.service import Service

_FOLDER_VARIABLE: Final = "SAGEMAKER_BASE_DIR"
_FOLDER: Final = "/opt/ml"
_PORT_VARIABLE: Final = "SAGEMAKER_BIND_TO_PORT"
_PORT: Final = "8080"
_ANY_HOST: Final = "0.0.0.0"
_SUFFIXES: Final = (".onnx", ".pt")  # of an exported model and of a checkpoint

_JSON: Final = "application/json"
_IMAGES: Final = ("", "application/octet-stream", "application/x-image", MULTIPART)  # beside image/…
_ACCEPTED: Final = ("", "*/*", "application/*", _JSON)
_FORM: Final = 'send {"instances": [{"b64": "…"}]}, with an image file in base64 each'


def routes(service: Service) -> list[Route]:
    """The endpoints that SageMaker calls. What its headers say beside the kinds of content is not needed."""

    async def ping(_: Request) -> Response:
        service.batcher  # noqa: B018 (raises LoadingError)
        return Response()

    async def invocations(request: Request) -> Response:
        _check_accepted(request.headers.get("accept", ""))
        content_type = content_type_of(request)
        if content_type == _JSON:
            service.batcher  # noqa: B018 (as where the body is an image)
            files = [File(None, content) for content in _instances(await request.body())]
            return JSONResponse({"predictions": await predict_files(service, files, DEFAULT_TOP)})
        if content_type in _IMAGES or content_type.startswith("image/"):
            return JSONResponse(await predict_body(service, request))
        raise UnsupportedError(f"a body of {content_type[:60]!r} is no image", f"send image/jpeg, or {_JSON}")

    return [Route("/ping", ping), Route("/invocations", invocations, methods=["POST"])]


def _check_accepted(accept: str) -> None:
    """Raise HTTPException where the client takes no JSON."""
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if kinds.isdisjoint(_ACCEPTED):
        raise HTTPException(406, f"answers are {_JSON}, and not {accept[:60]!r}")


def _instances(body: bytes) -> list[bytes]:
    """The image files in a body of JSON, which is in the form of TensorFlow Serving. Raises UsageError."""
    instances = read_object(body).get("instances")
    if not isinstance(instances, list) or not instances:
        raise BadRequestError("the request has no instances", _FORM)
    texts = [instance.get("b64") if isinstance(instance, dict) else None for instance in instances]
    return decode_files(texts)


def find_container() -> tuple[Path, str, int]:
    """Return the model that SageMaker unpacked, and the host and port at which it calls.

    Raises UsageError where there is no such folder, or not one model in it, FileError where it cannot be read.
    """
    folder = Path(os.environ.get(_FOLDER_VARIABLE, _FOLDER)) / "model"
    if not folder.is_dir():
        hint = f"`imagesprint serve RUN`; without MODEL it serves what SageMaker unpacks into {folder}"
        raise UsageError(f"no MODEL is given, and there is no folder {folder}", hint)
    port = os.environ.get(_PORT_VARIABLE, _PORT)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 1 << 16):
        raise UsageError(f"{_PORT_VARIABLE} is {port!r}", "it is the number of a port, 1 to 65535")
    return _only_model(folder), _ANY_HOST, int(port)


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
