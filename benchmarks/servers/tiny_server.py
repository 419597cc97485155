"""A running `imagesprint serve` as tests speak to it, with Python's own client; and the tiny model that it serves."""

import io
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import to_dict

RECIPE = Recipe(
    name="served",
    model="resnet20",
    precision="fp32",
    eval_source="full",
    eval_resize=36,
    eval_image_size=32,
    eval_batch_size=8,
    phases=(Phase((0, 2), (0.1, 0.0), "linear", 8, 8, 16, "full", 0.6),),
)
CLASSES = ("cat", "dog", "owl")


class Started(Protocol):
    """What a test gets of `tests/conftest.py`'s StartedCommand."""

    pid: int
    stdout: Path
    stderr: Path

    def end(self, number: int = ...) -> Any: ...
    def wait(self) -> Any: ...


def write_checkpoint(run: Path, step: int = 2, classes: tuple[str, ...] = CLASSES, gain: float = 10.0) -> Path:
    """Write a checkpoint of a run: random weights, other ones at each step; logits grow by the square of `gain`."""
    weights = build_model(replace(RECIPE, seed=step), len(classes)).state_dict()
    for key in ("bn1.weight", "fc.weight"):
        weights[key] *= gain
    file = run / "checkpoints" / f"step-{step:07d}.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": weights, "step": step, "recipe": to_dict(RECIPE), "classes": list(classes), "num_train": 40}
    torch.save(content, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").rename(file)
    return file


def make_image(seed: int = 0, kind: str = "JPEG", size: tuple[int, int] = (48, 40)) -> bytes:
    """An image file of noise of large grains, other ones by `seed`."""
    grains = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grains).resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: Message
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    host: str
    port: int

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.host, self.port, timeout=60)

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str = ""
    ) -> Answer:
        """Ask on a connection of its own: GET, or POST where there is a body."""
        with closing(self.connect()) as connection:
            return ask(connection, path, body, headers, method)


@dataclass(frozen=True)
class ServerProcess(Server):
    """One in a process of its own."""

    command: Started


def ask(
    connection: HTTPConnection,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "",
) -> Answer:
    """Ask on this connection."""
    connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `what` returns once that is true, or None; asked again and again."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return found
