"""`imagesprint serve`."""

import argparse
from typing import TYPE_CHECKING

from imagesprint.cli.output import show
from imagesprint.cli.parsing import Parser, add_cache_flags, add_device_flag, add_verb
from imagesprint.console import Console
from imagesprint.errors import needing
from imagesprint.inference import RUNTIMES
from imagesprint.storage.url import parse_place

if TYPE_CHECKING:
    from imagesprint.serving.service import Service

HOST = "127.0.0.1"
PORT = 8000

EXAMPLES = """\
  imagesprint serve RUN                                # then open http://127.0.0.1:8000/ or, from another program,
                                                       # curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
  imagesprint serve RUN --watch --host 0.0.0.0 --port 80
  imagesprint serve model-int8.onnx --runtime onnx
  imagesprint serve s3://bucket/runs/first --port 0 --json
  imagesprint serve                                    # in a container of SageMaker's: /opt/ml/model, port 8080"""

DESCRIPTION = """\
Serve a model over HTTP: a page at /, images at POST /predict, the Open Inference Protocol at /v2, SageMaker's
/invocations; /health, /ready, /metrics and /openapi.json tell of the server. The port is taken first: until the model
is loaded, /ready answers 503. SIGTERM or Ctrl-C ends it with exit code 0, once what it has taken is answered."""


def add_parser(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Add the verb."""
    parser = add_verb(subparsers, "serve", DESCRIPTION, EXAMPLES, run)
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=parse_place,
        metavar="MODEL",
        help="a run, for its last checkpoint, a checkpoint, an .onnx file; default: the one that SageMaker unpacked",
    )
    add("--host", help="default 127.0.0.1: this machine alone; 0.0.0.0 for all, the default without MODEL")
    add("--port", type=_port, help="default 8000, without MODEL the one that SageMaker calls; 0 takes one that is free")
    add("--runtime", choices=RUNTIMES, default="auto", help="default: the fastest that is installed")
    add("--int8", action="store_true", help="of a run: in integers of 8 bits; export --int8 also measures")
    add("--watch", action="store_true", help="a newer checkpoint of the run takes over, between two requests")
    add_device_flag(parser)
    add_cache_flags(parser)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve until a signal comes."""
    with needing("serve"):
        from imagesprint.serving.sagemaker import find_container
        from imagesprint.serving.server import serve  # imports torch
    from imagesprint.serving.service import Wanted

    def announce(url: str, service: "Service") -> None:
        model = service.model
        of = f"{model.name}, {len(model.classes):,} classes, after step {model.step:,}"
        show(args, {"url": url, **service.summary()}, f"{url}  {of}, by {model.runtime} in {model.precision}")

    model, host, port = (args.model, HOST, PORT) if args.model is not None else find_container()
    wanted = Wanted(model, args.runtime, args.device, args.int8)
    serve(wanted, args.host or host, port if args.port is None else args.port, args.watch, console, announce)
