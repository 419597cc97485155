"""Where a URL's store is and how it is entered, by the stores' own conventions: what OpenDAL is told.

Keys and tokens are left to OpenDAL where it looks for them itself, and handed over where it does not.
"""

import configparser
import http.client
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from imagesprint.errors import UsageError
from imagesprint.storage.url import Url

_REGION_SECONDS: Final = 5.0
_AZURITE: Final = {  # published with Azurite, and the same for everybody
    "AccountName": "devstoreaccount1",
    "AccountKey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


@dataclass(frozen=True)
class Service:
    """A service of OpenDAL with its options, and the host that it asks, for messages."""

    name: str
    options: dict[str, str]
    address: str


def service_of(url: Url) -> Service:
    """Return what OpenDAL needs for `url`, which is not hdfs://. Raises UsageError where the account is not named.

    It may ask S3 for the region of a bucket, where the environment and ~/.aws/config name none.
    """
    return {"s3": _s3, "gs": _gcs, "az": _azure}.get(url.scheme, _http)(url)


def _http(url: Url) -> Service:
    return Service("http", {"endpoint": f"{url.scheme}://{url.host}"}, url.host)


def _s3(url: Url) -> Service:
    profile = _aws_profile()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or profile["endpoint_url"]
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or profile["region"]
    # Names before the host are AWS's own way; buckets with a dot would not fit its certificate.
    is_before_host = not endpoint and "." not in url.host
    options = {
        "bucket": url.host,
        "endpoint": endpoint or "https://s3.amazonaws.com",
        "region": region or ("us-east-1" if endpoint else _aws_region(url.host)),
        "enable_virtual_host_style": str(is_before_host).lower(),
        "disable_ec2_metadata": os.environ.get("AWS_EC2_METADATA_DISABLED", "false").lower(),
    }
    return Service("s3", options, _host(options["endpoint"]))


def _aws_profile() -> dict[str, str]:
    """What AWS_PROFILE says in ~/.aws/config of endpoint and region; empty where it says nothing."""
    file = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    name = os.environ.get("AWS_PROFILE") or "default"
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, OSError, UnicodeDecodeError):
        parser.read(file)
    section = next((each for each in (f"profile {name}", name) if parser.has_section(each)), "")
    return {key: parser.get(section, key, fallback="") if section else "" for key in ("endpoint_url", "region")}


def _aws_region(bucket: str) -> str:
    """The region of an AWS bucket, which S3 tells anybody; that of old where it does not answer."""
    connection = http.client.HTTPSConnection("s3.amazonaws.com", timeout=_REGION_SECONDS)
    with suppress(OSError, http.client.HTTPException):
        try:
            connection.request("HEAD", f"/{bucket}")
            return connection.getresponse().getheader("x-amz-bucket-region") or "us-east-1"
        finally:
            connection.close()
    return "us-east-1"


def _gcs(url: Url) -> Service:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    options = {"bucket": url.host}
    if emulator:
        endpoint = emulator if "://" in emulator else f"http://{emulator}"
        options |= {"endpoint": endpoint.rstrip("/"), "skip_signature": "true"}
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        options |= {"disable_vm_metadata": "true"}
    return Service("gcs", options, _host(options.get("endpoint", "https://storage.googleapis.com")))


def _azure(url: Url) -> Service:
    given = _connection_string(os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    account = given.get("AccountName") or _first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    if not account:
        hint = "set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING"
        raise UsageError(f"{url} is in an account that nothing names", hint)
    suffix = given.get("EndpointSuffix", "core.windows.net")
    protocol = given.get("DefaultEndpointsProtocol", "https")
    options = {
        "container": url.host,
        "account_name": account,
        "endpoint": given.get("BlobEndpoint") or f"{protocol}://{account}.blob.{suffix}",
        "account_key": given.get("AccountKey") or _first("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
        "sas_token": given.get("SharedAccessSignature") or _first("AZURE_STORAGE_SAS_TOKEN"),
    }
    return Service("azblob", {key: value for key, value in options.items() if value}, _host(options["endpoint"]))


def _connection_string(text: str) -> dict[str, str]:
    """The parts of an Azure connection string. Values may hold =."""
    parts = dict(part.partition("=")[::2] for part in text.split(";") if part)
    return _AZURITE if parts.get("UseDevelopmentStorage", "").lower() == "true" else parts


def _first(*names: str) -> str:
    """The first of these of the environment that is not empty; else empty."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _host(endpoint: str) -> str:
    """Host and port of an endpoint, without a user's name before them."""
    return urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}").netloc.rpartition("@")[2]
