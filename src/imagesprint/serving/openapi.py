"""What `/openapi.json` says: every endpoint with what it takes and gives, in OpenAPI 3.1."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any, Final

from imagesprint.recipes.recipe import EVAL_SHAPES
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
            "version": own_version(),
            "summary": "An image in, its likeliest classes out",
        },
        "paths": {**_PATHS, **_INFERENCE_PROTOCOL, **_SAGEMAKER},
        "components": {"schemas": _SCHEMAS},
    }


def own_version() -> str:
    """The version of imagesprint, where it is installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("imagesprint")
    return "unknown"


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
    "Tensor": _object(
        {"name": _STRING, "datatype": {"enum": ["UINT8", "BYTES", "FP32"]}, "shape": _array({"type": "integer"})},
        {"parameters": {"type": "object"}, "data": {"type": "array"}},
    ),
    "Model": _object(
        {
            **dict.fromkeys(("checkpoint", "model", "runtime", "precision"), _STRING),
            **dict.fromkeys(("step", "image_size", "resize"), _INTEGER),
            "classes": _array(_object({"name": _STRING, "text": _STRING})),
        },
        # Files that were exported before there was a choice lack the shape
        {"shape": {"enum": list(EVAL_SHAPES)}, "opened": {"type": "number"}},
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

_BODIES: Final[_Object] = {
    **{kind: {"schema": _IMAGE} for kind in _FORMATS},
    "multipart/form-data": {"schema": _FORM},
}
_PREDICTIONS: Final = _array({"oneOf": [_ref("Prediction"), _ref("Unread")]})
_PATHS: Final[_Object] = {
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
                "content": _BODIES,
            },
            "responses": {
                "200": _json(
                    "Of an image its prediction; of a form a list, where an image that cannot be read has its error",
                    {"oneOf": [_ref("Prediction"), _PREDICTIONS]},
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


def _get(summary: str, answer: _Object, parameters: Sequence[_Object] = ()) -> _Object:
    responses = {"200": _json("As the protocol has it", answer), **({"404": _NONE} if parameters else {})}
    return {"get": {"summary": summary, "parameters": [*parameters], "responses": {**responses, "503": _LOADING}}}


def _of_model(what: str, operation: Callable[[list[_Object]], _Object]) -> _Object:
    """The paths of what is asked of the model, without and with its version."""
    name, version = ({"name": name, "in": "path", "required": True, "schema": _STRING} for name in ("name", "version"))
    paths = (("/v2/models/{name}", [name]), ("/v2/models/{name}/versions/{version}", [name, version]))
    return {path + what: operation(parameters) for path, parameters in paths}


def _infer(parameters: list[_Object]) -> _Object:
    identifier = {"id": _STRING, "parameters": {"type": "object"}}
    request = _object({"inputs": _TENSORS}, {**identifier, "outputs": _array(_object({"name": _STRING}))})
    answer = _object({"model_name": _STRING, "outputs": _TENSORS}, {"model_version": _STRING, **identifier})
    forms = {"application/json": {"schema": request}, "application/octet-stream": {"schema": _IMAGE}}
    answers = {"application/json": {"schema": answer}, "application/octet-stream": {"schema": _IMAGE}}
    said = {
        "summary": "Tensors in, tensors out: of pixels or image files logits and probabilities",
        "description": "Binary data follow the JSON where the header Inference-Header-Content-Length says",
        "parameters": parameters,
        "requestBody": {"required": True, "content": forms},
        "responses": {"200": {"description": "As the protocol has it", "content": answers}, "404": _NONE, **_REFUSALS},
    }
    return {"post": said}


_TENSORS: Final = _array(_ref("Tensor"))
_NONE: Final = _error("There is no such model, or not in this version")
_BOOLEAN: Final = {"type": "boolean"}
_SERVER: Final = _object({"name": _STRING, "version": _STRING, "extensions": _array(_STRING)})
_METADATA: Final = _object(
    {
        **dict.fromkeys(("name", "platform"), _STRING),
        "versions": _array(_STRING),
        **dict.fromkeys(("inputs", "alternative_inputs", "outputs"), _TENSORS),
    }
)

# Of the Open Inference Protocol: github.com/kserve/open-inference-protocol says more.
_INFERENCE_PROTOCOL: Final[_Object] = {
    "/v2": _get("The server and the protocol's extensions that it knows", _SERVER),
    "/v2/health/live": _get("That the server is there", _object({"live": _BOOLEAN})),
    "/v2/health/ready": _get("Whether it answers requests", _object({"ready": _BOOLEAN})),
    **_of_model("", lambda of: _get("The model and its tensors", _METADATA, of)),
    **_of_model("/ready", lambda of: _get("Whether it is ready", _object({"name": _STRING, "ready": _BOOLEAN}), of)),
    **_of_model("/infer", _infer),
}

_INSTANCES: Final = _object({"instances": _array(_object({"b64": {"type": "string", "contentEncoding": "base64"}}))})
_SAGEMAKER: Final[_Object] = {
    "/ping": {
        "get": {
            "summary": "Whether it answers images",
            "responses": {"200": {"description": "It does"}, "503": _LOADING},
        }
    },
    "/invocations": {
        "post": {
            "summary": "As /predict, and also of several images in JSON",
            "requestBody": {
                "required": True,
                "content": {**_BODIES, "application/json": {"schema": _INSTANCES}},
            },
            "responses": {
                "200": _json(
                    "As /predict; of JSON the same list as predictions",
                    {"oneOf": [_ref("Prediction"), _PREDICTIONS, _object({"predictions": _PREDICTIONS})]},
                ),
                "406": _error("No answer in JSON is wanted"),
                **_REFUSALS,
            },
        }
    },
}
