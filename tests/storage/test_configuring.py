"""Where a store is said to be: by the environment and files that its other programs read."""

import os
from pathlib import Path

import pytest

from imagesprint.storage.configuring import service_of
from imagesprint.storage.url import Url


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have nothing be set."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def _options(url: str) -> dict[str, str]:
    return service_of(Url(url)).options


def test_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(
        "[default]\nregion = eu-north-1\n[profile minio]\nregion=here\nendpoint_url = http://minio:9000\n"
    )
    own = _options("s3://bucket/x")
    assert own == {
        "bucket": "bucket",
        "endpoint": "https://s3.amazonaws.com",
        "region": "eu-north-1",
        "enable_virtual_host_style": "true",
        "disable_ec2_metadata": "false",
    }
    assert _options("s3://bucket.with.dots/x")["enable_virtual_host_style"] == "false"
    monkeypatch.setenv("AWS_PROFILE", "minio")
    assert service_of(Url("s3://bucket/x")).address == "minio:9000"
    other = _options("s3://bucket/x")
    assert (other["endpoint"], other["region"]) == ("http://minio:9000", "here")
    assert other["enable_virtual_host_style"] == "false"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    monkeypatch.setenv("AWS_REGION", "there")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "TRUE")
    other = _options("s3://bucket/x")
    assert (other["endpoint"], other["region"]) == ("http://general:1", "there")
    assert other["disable_ec2_metadata"] == "true"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://own:2")
    monkeypatch.setenv("AWS_PROFILE", "none")
    monkeypatch.delenv("AWS_REGION")
    other = _options("s3://bucket/x")
    assert (other["endpoint"], other["region"]) == ("http://own:2", "us-east-1")


def test_gcs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _options("gs://bucket/x") == {"bucket": "bucket"}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:4443")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert _options("gs://bucket/x") == {
        "bucket": "bucket",
        "endpoint": "http://localhost:4443",
        "skip_signature": "true",
        "disable_vm_metadata": "true",
    }


def test_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "shop")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x")
    assert _options("az://box/x") == {
        "container": "box",
        "account_name": "shop",
        "endpoint": "https://shop.blob.core.windows.net",
        "sas_token": "sv=1&sig=x",
    }
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        "DefaultEndpointsProtocol=https;AccountName=other;AccountKey=a2V5==;EndpointSuffix=core.example",
    )
    assert _options("az://box/x")["endpoint"] == "https://other.blob.core.example"
    assert _options("az://box/x")["account_key"] == "a2V5=="
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
    assert service_of(Url("az://box/x")).address == "127.0.0.1:10000"


def test_http() -> None:
    assert _options("https://host:8/a/b") == {"endpoint": "https://host:8"}
