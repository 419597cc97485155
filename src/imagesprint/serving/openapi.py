"""What `/openapi.json` says: every endpoint with what it takes and gives, in OpenAPI 3.1."""

from importlib import metadata
from typing import Any, Final

from imagesprint.serving.batcher import MAX_IMAGES
from imagesprint.serving.gate import MAX_BODY

_Object = dict[str, Any]
_FORMATS: Final = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")


def describe() -> _Object:
    """The document, in plain types for JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imagesprint",
            "version": metadata.version("imagesprint"),
            "summary": "An image in, its likeliest classes out",
        },
        "paths": PATHS,
        "components": {"schemas": _SCHEMAS},
    }


def _ref(name: str) -> _Object:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: _Object) -> _Object:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(required: _Object, optional: _Object | None = None) -> _Object:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def _array(items: _Object) -> _Object:
    return {"type": "array", "items": items}


_STRING: Final[_Object] = {"type": "string"}
_INTEGER: Final[_Object] = {"type": "integer", "minimum": 0}
_LATER: Final[_Object] = {"Retry-After": {"description": "seconds", "schema": _INTEGER}}

_SCHEMAS: Final[_Object] = {
    "Candidate": _object(
        {"class": _INTEGER, "name": _STRING, "probability": {"type": "number", "minimum": 0, "maximum": 1}}
    ),
    "Prediction": _object({"image": {"type": ["string", "null"]}, "top": _array(_ref("Candidate"))}),
    "Unread": _object({"image": {"type": ["string", "null"]}, "error": _STRING}),
    "Error": _object({"error": _STRING, "hint": _STRING}),
    "Health": _object(
        {"status": {"enum": ["loading", "ready"]}, "max_body_bytes": _INTEGER, "max_images": _INTEGER},
        {
            **dict.fromkeys(("model", "runtime", "precision"), _STRING),
            **dict.fromkeys(("num_classes", "step", "image_size"), _INTEGER),
        },
    ),
    "Model": _object(
        {
            **dict.fromkeys(("checkpoint", "model", "runtime", "precision"), _STRING),
            **dict.fromkeys(("step", "image_size", "resize"), _INTEGER),
            "classes": _array(_object({"name": _STRING, "text": _STRING})),
        }
    ),
}


def _error(description: str, headers: _Object | None = None) -> _Object:
    return _json(description, _ref("Error")) | ({"headers": headers} if headers else {})


_LOADING: Final = _error("The model is being loaded", _LATER)
_REFUSALS: Final[_Object] = {
    "400": _error("The request is not as it should be, or the image is empty"),
    "408": _error("The body came too slowly"),
    "413": _error(f"More than {MAX_BODY >> 20} MiB, {MAX_IMAGES} images, or an image of too many pixels"),
    "415": _error("No image, or of a format that is not read"),
    "422": _error("The image is damaged"),
    "429": _error("Too much is waiting already", _LATER),
    "500": _error("The model failed on this image"),
    "503": _LOADING,
    "504": _error("No answer in time", _LATER),
}
_IMAGE: Final[_Object] = {"type": "string", "format": "binary"}
_FORM: Final[_Object] = {"type": "object", "additionalProperties": {"oneOf": [_IMAGE, _array(_IMAGE)]}}

PATHS: Final[_Object] = {
    "/predict": {
        "post": {
            "summary": "The likeliest classes of an image, or of several in a form",
            "parameters": [
                {
                    "name": "top",
                    "in": "query",
                    "description": "how many classes",
                    "schema": {"type": "integer", "minimum": 1, "default": 5},
                }
            ],
            "requestBody": {
                "required": True,
                "content": {
                    **{kind: {"schema": _IMAGE} for kind in _FORMATS},
                    "multipart/form-data": {"schema": _FORM},
                },
            },
            "responses": {
                "200": _json(
                    "Of an image its prediction; of a form a list, where an image that cannot be read has its error",
                    {"oneOf": [_ref("Prediction"), _array({"oneOf": [_ref("Prediction"), _ref("Unread")]})]},
                ),
                **_REFUSALS,
            },
        }
    },
    "/health": {
        "get": {
            "summary": "That the server is there, and what it serves, in short",
            "responses": {"200": _json("It is there", _ref("Health"))},
        }
    },
    "/ready": {
        "get": {
            "summary": "Whether it answers images",
            "responses": {"200": _json("It does", _object({"status": {"const": "ready"}})), "503": _LOADING},
        }
    },
    "/model": {
        "get": {
            "summary": "What is served, with all its classes",
            "responses": {"200": _json("The model", _ref("Model")), "503": _LOADING},
        }
    },
    "/metrics": {
        "get": {
            "summary": "Counts and times, for Prometheus",
            "responses": {"200": {"description": "Its text format", "content": {"text/plain": {"schema": _STRING}}}},
        }
    },
    "/openapi.json": {
        "get": {
            "summary": "This document",
            "responses": {"200": _json("OpenAPI", {"type": "object"})},
        }
    },
}
