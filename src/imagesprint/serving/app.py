"""The application: the endpoints of all rooms, with one form of errors, behind the gate."""

from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from imagesprint.errors import ImagesprintError
from imagesprint.serving import endpoints, inference_protocol, page, sagemaker
from imagesprint.serving.gate import Gate
from imagesprint.serving.refusals import answer_bug, answer_error, answer_gone, answer_http_exception
from imagesprint.serving.service import Service

_ROOMS: Final = (endpoints, inference_protocol, sagemaker, page)  # each offers routes(service)


def all_routes(service: Service) -> list[Route]:
    """The routes of all rooms, the busiest first: they are tried in order."""
    return [route for room in _ROOMS for route in room.routes(service)]


def build_app(service: Service) -> Gate:
    """The ASGI application that serves `service`."""
    app = Starlette(
        routes=all_routes(service),
        exception_handlers={
            ImagesprintError: answer_error,
            HTTPException: answer_http_exception,
            ClientDisconnect: answer_gone,
            Exception: answer_bug,
        },
    )
    return Gate(app, service.metrics)
