"""Stand-ins for Google's and Azure's stores: fake-gcs-server and Azurite, which `make remote-check` installs."""

import base64
import hmac
import json
import shutil
import urllib.request
from email.utils import formatdate
from pathlib import Path

from server_process import ListeningServer, free_ports

INSTALLED = Path(__file__).parents[2] / ".remote"  # `make remote-check` fills it
AZURE = "DefaultEndpointsProtocol=http;AccountName={name};AccountKey={key};BlobEndpoint={endpoint};"
# Azurite's account, the same for everybody.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class GcsServer(ListeningServer):
    """`environment` has what a client needs to reach it."""

    def __init__(self, folder: Path) -> None:
        found = next((INSTALLED / "gcs").glob("*/vendor/fake-gcs-server/bin/*"), None)
        if found is None:
            raise RuntimeError("there is no fake-gcs-server: make remote-check installs it")
        port = free_ports(1)[0]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {"STORAGE_EMULATOR_HOST": self.endpoint}
        words = [str(found), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
        super().__init__([*words, "-external-url", self.endpoint], folder, port)

    def make_bucket(self, name: str) -> str:
        """Make the bucket `name`; returns it."""
        data = json.dumps({"name": name}).encode()
        request = urllib.request.Request(f"{self.endpoint}/storage/v1/b?project=test", data)
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=5).close()
        return name


class AzureServer(ListeningServer):
    """`environment` has what a client needs to reach it."""

    def __init__(self, folder: Path) -> None:
        program = INSTALLED / "node_modules/azurite/dist/src/blob/main.js"
        if not program.exists() or shutil.which("node") is None:
            raise RuntimeError("there is no Azurite: make remote-check installs it")
        port = free_ports(1)[0]
        self.endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        text = AZURE.format(name=ACCOUNT, key=KEY, endpoint=self.endpoint)
        self.environment = {"AZURE_STORAGE_CONNECTION_STRING": text}
        words = ["node", str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
        super().__init__([*words, "--skipApiVersionCheck", "--disableTelemetry", "--silent"], folder, port)

    def make_bucket(self, name: str) -> str:
        """Make the container `name`; returns it."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        lines = ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in headers.items())]
        signed = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"])
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), "sha256")).decode()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        url = f"{self.endpoint}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, None, headers, method="PUT"), timeout=5).close()
        return name
