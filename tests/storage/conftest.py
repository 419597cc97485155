"""A place in each kind of store, for what all of them must do alike."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from emulators import AzureServer, GcsServer
from imagesprint.storage.url import Url

Emulator = TypeVar("Emulator", GcsServer, AzureServer)


@pytest.fixture(
    params=[
        "s3",
        pytest.param("hdfs", marks=pytest.mark.hdfs),
        pytest.param("gs", marks=pytest.mark.remote),
        pytest.param("az", marks=pytest.mark.remote),
    ]
)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Url:
    """A place in a store in which there is nothing yet."""
    kind = request.param
    if kind in ("s3", "hdfs"):
        url: Url = request.getfixturevalue(kind).url
        return url
    for name, value in request.getfixturevalue(f"{kind}_server").environment.items():
        monkeypatch.setenv(name, value)
    return Url(f"{kind}://tests/place-{secrets.token_hex(4)}")


@pytest.fixture(scope="session")
def gs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """What stands for Google's store."""
    yield from _serve(GcsServer, tmp_path_factory.mktemp("gs"))


@pytest.fixture(scope="session")
def az_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """What stands for Azure's store."""
    yield from _serve(AzureServer, tmp_path_factory.mktemp("az"))


def _serve(kind: type[Emulator], folder: Path) -> Iterator[Emulator]:
    server = kind(folder)
    server.make_bucket("tests")
    yield server
    server.kill()
