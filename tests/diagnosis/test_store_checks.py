"""What `doctor` says of credentials and of a store's speed, without a store."""

import json
from pathlib import Path

import pytest

from imagesprint.diagnosis.store_checks import found_credentials, speed_checks
from imagesprint.diagnosis.store_speed import ReadSpeed, WriteSpeed, keep_speed, kept_speed
from imagesprint.storage.url import Url

SPEED = ReadSpeed("2026-11-29", 0.012, 0.2, 80e6, 600e6, 1900.0)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))


def test_credentials_are_named_in_the_order_in_which_they_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = Url("s3://bucket/root")
    assert found_credentials(url).startswith("none but the role of this machine")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\naws_secret_access_key = file-secret\n")
    assert found_credentials(url) == "~/.aws/credentials"
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert found_credentials(url) == "AWS_PROFILE of the environment, a profile of ~/.aws"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    assert found_credentials(url) == "AWS_PROFILE of the environment, a profile of ~/.aws"  # half of a key is none
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    assert found_credentials(url) == "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment"
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sig=secret")
    assert found_credentials(Url("az://container/root")) == "AZURE_STORAGE_SAS_TOKEN of the environment"
    assert found_credentials(Url("https://host/root")) == "none are needed"


def test_a_store_far_away_and_a_narrow_line_are_warnings() -> None:
    assert [check.status for check in speed_checks(SPEED)] == ["ok", "ok", "ok"]
    latency, throughput, requests = speed_checks(ReadSpeed("2026-11-29", 0.12, 0.5, 4e6, 9e6, 180.0))
    assert (latency.status, throughput.status, requests.status) == ("warning", "warning", "ok")
    assert latency.detail == "median 120.0 ms, worst 500.0 ms of up to 30 requests"
    assert "in the store's region" in latency.hint
    assert throughput.detail == "4.0 MB/s by one request at a time, 9.0 MB/s by 16"


def test_speeds_are_kept_a_bucket_and_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    url = Url("s3://bucket/root")
    assert kept_speed(url, ReadSpeed) is None
    keep_speed(url, SPEED)
    keep_speed(url, WriteSpeed("2026-11-29", 1e6))
    assert kept_speed(Url("s3://bucket/another"), ReadSpeed) == SPEED
    assert kept_speed(Url("s3://other/root"), ReadSpeed) is None
    assert kept_speed(url, WriteSpeed) == WriteSpeed("2026-11-29", 1e6)
    for file in (tmp_path / "imagesprint/calibrations").iterdir():
        file.write_text(json.dumps({"made": "2026-11-29"}))
    assert kept_speed(url, ReadSpeed) is None
    assert kept_speed(url, WriteSpeed) is None


def test_records_come_as_fast_as_requests_or_bytes_allow() -> None:
    assert SPEED.records_per_second(10_000) == 1900.0
    assert SPEED.records_per_second(1_000_000) == pytest.approx(600.0)
