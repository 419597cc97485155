"""What a client is told that gets no answer: each error of ours has its HTTP status here, its words come from it.

The body is JSON everywhere, `{"error": what, "hint": what helps}`, but where a protocol has a form of its own.
"""

from typing import ClassVar, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imagesprint.errors import DataError, ImageError, ImagesprintError, UsageError

# Of an image that cannot be read, by the kind with which `images.coding.load_image` begins its reason; else 422.
_IMAGE_STATUS: Final = {"empty": 400, "no image": 415, "unsupported": 415, "too large": 413}
_DAMAGED: Final = 422
GONE: Final = 499  # nginx's status of a client that is gone
_HINTS: Final = {
    404: "GET /openapi.json lists the paths",
    405: "GET /openapi.json lists the methods of each path",
}


class RefusedError(ImagesprintError):
    """A request that is refused, by its class's `status`. `retry_after` is the seconds after which it may be taken."""

    status: ClassVar[int]

    def __init__(self, what: str, hint: str = "", retry_after: int | None = None) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after


class BadRequestError(RefusedError):
    status = 400


class TooLargeError(RefusedError):
    status = 413


class UnsupportedError(RefusedError):
    status = 415


class BusyError(RefusedError):
    status = 429


class ModelError(RefusedError):
    status = 500


class LoadingError(RefusedError):
    status = 503


class TimedOutError(RefusedError):
    status = 504


def status_of(error: ImagesprintError) -> int:
    """The HTTP status of an error: RefusedErrors have their own, wrong input is 4xx, all else 500."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, ImageError):
        return _IMAGE_STATUS.get(error.what.partition(":")[0], _DAMAGED)
    if isinstance(error, DataError):
        return _DAMAGED
    return 400 if isinstance(error, UsageError) else 500


def headers_of(error: ImagesprintError) -> dict[str, str]:
    """The headers that go with an error: Retry-After where that is known."""
    retry_after = error.retry_after if isinstance(error, RefusedError) else None
    return {} if retry_after is None else {"Retry-After": str(retry_after)}


def refusal(error: ImagesprintError) -> JSONResponse:
    """The answer to a request that ended in `error`."""
    return JSONResponse({"error": error.what, "hint": error.hint}, status_of(error), headers_of(error))


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """What Starlette calls for an ImagesprintError."""
    assert isinstance(error, ImagesprintError)
    return refusal(error)


async def answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What Starlette calls for its own exceptions: an unknown path, another method."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    body = {"error": what, "hint": _HINTS.get(error.status_code, "")}
    return JSONResponse(body, error.status_code, error.headers)


async def answer_gone(_: Request, __: Exception) -> Response:
    """What Starlette calls where the client is gone before its request was whole; for /metrics alone."""
    return Response(status_code=GONE)


async def answer_bug(_: Request, error: Exception) -> JSONResponse:
    """What Starlette calls for anything else; the server's log has it, too."""
    body = {"error": f"the server failed: {type(error).__name__}", "hint": "its log says more; please report it"}
    return JSONResponse(body, 500)
