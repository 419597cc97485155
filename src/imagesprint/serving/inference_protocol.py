"""The Open Inference Protocol, version 2, over REST at `/v2`: health, metadata, and tensors in and out.

What the bodies say is `inference_messages`'s. The one model has the name of its network, and one version: the steps
that it was trained.
"""

from collections.abc import Sequence
from reprlib import repr as shown
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.inference.opening import OpenModel
from imagesprint.serving.batcher import Answer
from imagesprint.serving.inference_messages import FILES, OUTPUTS, PIXELS, InferenceRequest, read_request, write_answer
from imagesprint.serving.openapi import own_version
from imagesprint.serving.refusals import BadRequestError, UnsupportedError
from imagesprint.serving.service import Service

_EXTENSIONS: Final = ("binary_tensor_data", "classification")
_JSON_LENGTH: Final = "Inference-Header-Content-Length"
_MODEL: Final = "/v2/models/{name}"
_VERSION: Final = _MODEL + "/versions/{version}"


def routes(service: Service) -> list[Route]:
    """The endpoints of the protocol."""
    return [*_inference(service), *_metadata(service)]


def _inference(service: Service) -> list[Route]:
    async def infer(request: Request) -> Response:
        model = _served(service, request)
        asked = await _read(request, model.image_size)
        if asked.pixels is not None:
            logits = await service.batcher.infer(asked.pixels)
        else:
            logits = _all_of(await service.batcher.predict(asked.encoded))
        head: dict[str, object] = {"model_name": model.name}
        if _served(service, request) is model:  # and none has taken over meanwhile, so it was this one that answered
            head["model_version"] = str(model.step)
        if asked.identifier is not None:
            head["id"] = asked.identifier
        content, json_length = write_answer(head, asked.outputs, logits, model.class_texts)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={_JSON_LENGTH: str(json_length)}, media_type="application/octet-stream")

    return [Route(f"{of}/infer", infer, methods=["POST"]) for of in (_MODEL, _VERSION)]


def _metadata(service: Service) -> list[Route]:
    async def server_metadata(_: Request) -> Response:
        return JSONResponse({"name": "imagesprint", "version": own_version(), "extensions": _EXTENSIONS})

    async def server_live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def server_ready(_: Request) -> Response:
        service.batcher  # noqa: B018 (raises LoadingError)
        return JSONResponse({"ready": True})

    async def model_metadata(request: Request) -> Response:
        return JSONResponse(_describe(_served(service, request)))

    async def model_ready(request: Request) -> Response:
        return JSONResponse({"name": _served(service, request).name, "ready": True})

    return [
        Route("/v2", server_metadata),
        Route("/v2/health/live", server_live),
        Route("/v2/health/ready", server_ready),
        *(Route(of, model_metadata) for of in (_MODEL, _VERSION)),
        *(Route(f"{of}/ready", model_ready) for of in (_MODEL, _VERSION)),
    ]


def _served(service: Service, request: Request) -> OpenModel:
    """The model that a path names. Raises LoadingError, and HTTPException where there is none of that name."""
    model, name, version = service.model, request.path_params["name"], request.path_params.get("version")
    if name != model.name:
        raise HTTPException(404, f"there is no model {shown(name)}: it is {model.name}")
    if version not in (None, str(model.step)):
        raise HTTPException(404, f"{name} has no version {shown(version)}: it is {model.step}")
    return model


async def _read(request: Request, image_size: int) -> InferenceRequest:
    """What a request asks. Its errors have one text, for the protocol has no field for a hint."""
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedError(f"the body is compressed with {shown(encoding)}; send it as it is")
    try:
        return read_request(await request.body(), request.headers.get(_JSON_LENGTH), image_size)
    except UsageError as error:
        raise BadRequestError(f"{error.what}; {error.hint}".removesuffix("; ")) from None


def _describe(model: OpenModel) -> dict[str, Any]:
    """The model's metadata. `inputs` are what is needed; `encoded` may take its place, for which there is no field."""
    side, num_classes = model.image_size, len(model.classes)
    return {
        "name": model.name,
        "versions": [str(model.step)],
        "platform": f"imagesprint_{model.runtime.partition(' ')[0]}",
        "inputs": [{"name": PIXELS, "datatype": "UINT8", "shape": [-1, side, side, 3]}],
        "alternative_inputs": [{"name": FILES, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, num_classes]} for name in OUTPUTS],
    }


def _all_of(answers: Sequence[Answer]) -> NDArray[np.float32]:
    """The logits [N, C] of all images. Raises the error of the first that has one."""
    for number, answer in enumerate(answers):
        if isinstance(answer, ImagesprintError):
            raise type(answer)(f"{answer.what} (element {number} of {FILES})", answer.hint)
    return np.stack([answer for answer in answers if not isinstance(answer, ImagesprintError)])
