"""`/predict`, and what tells how the server is: `/health`, `/ready`, `/model`, `/metrics`, `/openapi.json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from imagesprint.errors import ImagesprintError
from imagesprint.inference.prediction import Prediction
from imagesprint.serving.batcher import MAX_IMAGES, Likeliest
from imagesprint.serving.gate import MAX_BODY
from imagesprint.serving.metrics import CONTENT_TYPE
from imagesprint.serving.openapi import describe
from imagesprint.serving.refusals import BadRequestError, UnsupportedError
from imagesprint.serving.service import Service

DEFAULT_TOP: Final = 5
MULTIPART: Final = "multipart/form-data"
_NO_IMAGES: Final = ("application/json", "text/")  # content types of what is certainly none
_NO_PATH: Final = Path()
_CURL: Final = "curl --data-binary @photo.jpg URL, or -F image=@photo.jpg for several"


@dataclass(frozen=True)
class File:
    """An image as it was sent, and its name where it has one."""

    name: str | None
    content: bytes


class _FormParser(MultiPartParser):
    """Keeps files in memory, which the limit of a body bounds, and not on a disk."""

    spool_max_size = MAX_BODY + 1


def routes(service: Service) -> list[Route]:
    """The endpoints of this room."""

    async def predict(request: Request) -> Response:
        return JSONResponse(await predict_body(service, request))

    async def health(_: Request) -> Response:
        return JSONResponse(_health(service))

    async def ready(_: Request) -> Response:
        service.batcher  # noqa: B018 (raises LoadingError)
        return JSONResponse({"status": "ready"})

    async def model(_: Request) -> Response:
        return JSONResponse(service.describe())

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(_: Request) -> Response:
        return JSONResponse(describe())

    return [
        Route("/predict", predict, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/model", model),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
    ]


async def predict_body(service: Service, request: Request) -> dict[str, Any] | list[dict[str, Any]]:
    """The prediction of the image that is the body, or those of the images in a form, a list.

    Raises LoadingError, BadRequestError, UnsupportedError, and as `predict_files` does.
    """
    service.batcher  # noqa: B018 (where the model is not there yet, the body need not be read)
    top = read_top(request)
    if content_type_of(request) == MULTIPART:
        return await predict_files(service, await _read_form(request), top)
    (answer,) = await predict_files(service, [File(None, await read_image(request))], top)
    return answer


def read_top(request: Request) -> int:
    """How many classes are asked for, by `?top=`. Raises BadRequestError."""
    if not request.scope["query_string"]:
        return DEFAULT_TOP
    text = request.query_params.get("top", str(DEFAULT_TOP))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise BadRequestError(f"top={text[:40]!r} is not a whole number of at least 1", "/predict?top=5")
    return int(text)


async def read_image(request: Request) -> bytes:
    """The body as the bytes of one image. Raises UnsupportedError where it says that it is something else."""
    content_type = content_type_of(request)
    if content_type.startswith(_NO_IMAGES):
        raise UnsupportedError(f"a body of {content_type[:60]!r} is no image", _CURL)
    return await request.body()


def content_type_of(request: Request) -> str:
    """The kind of the body, in small letters and without parameters; empty where it is not said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_form(request: Request) -> list[File]:
    """The files of a form. Raises BadRequestError."""
    try:
        form = await _FormParser(request.headers, request.stream()).parse()
    except MultiPartException as error:
        raise BadRequestError(f"the form cannot be read: {error.message}", _CURL) from None
    except FormParserError as error:  # of which later versions of Starlette make the other
        raise BadRequestError(f"the form cannot be read: {error}", _CURL) from None
    parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    files = [File(part.filename, await part.read()) for part in parts]
    await form.close()
    if not files:
        raise BadRequestError("the form holds no file", _CURL)
    return files


async def predict_files(service: Service, files: Sequence[File], top: int) -> list[dict[str, Any]]:
    """What `predict --json` prints of each file: its likeliest classes, or its error.

    Raises the first error where no file has an answer, and as `Batcher.predict` does.
    """
    answers = await service.batcher.classify([file.content for file in files], top)
    errors = [answer for answer in answers if isinstance(answer, ImagesprintError)]
    if len(errors) == len(answers):
        answers.clear()  # what is raised holds this frame; if that held it, the files would stay until gc finds both
        raise errors.pop(0)
    return [_as_object(file.name, answer) for file, answer in zip(files, answers, strict=True)]


def _as_object(name: str | None, answer: Likeliest | ImagesprintError) -> dict[str, Any]:
    """The form of `predict --json`; the image may have no name."""
    if isinstance(answer, ImagesprintError):
        prediction = Prediction(_NO_PATH, (), answer.what)
    else:
        prediction = Prediction(_NO_PATH, answer)
    return prediction.as_object() | {"image": name}


def _health(service: Service) -> dict[str, Any]:
    """That the server is there, what it serves, in short, and what it takes."""
    state = {"status": "ready", **service.summary()} if service.is_ready else {"status": "loading"}
    return {**state, "max_body_bytes": MAX_BODY, "max_images": MAX_IMAGES}
