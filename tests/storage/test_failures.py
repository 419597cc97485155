"""Each failure that a user can meet is one clear error, and none says a secret."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fault_proxy import FaultProxy, Faults
from imagesprint.errors import StorageError, UsageError
from imagesprint.storage import attempts
from imagesprint.storage.failures import explain
from imagesprint.storage.store import Store, open_store
from imagesprint.storage.url import Url
from s3_server import S3, S3Server


def _error(store: Store, key: str = "file") -> StorageError:
    with pytest.raises(StorageError) as caught:
        store.read(key)
    shown = f"{caught.value.what} {caught.value.hint}"
    assert "\n" not in shown
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert os.environ.get(name, "nothing") not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "why", "hint"),
    [
        (403, "AccessDenied", "no permission", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the AWS_PROFILE"),
        (403, "InvalidAccessKeyId", "the store does not know these credentials, or they are wrong", "AWS_PROFILE"),
        (403, "SignatureDoesNotMatch", "the store does not know these credentials, or they are wrong", "AWS_PROFILE"),
        (403, "RequestTimeTooSkewed", "this machine's clock is too far from the store's", "set the clock"),
        (400, "ExpiredToken", "the credentials have expired", "aws sso login"),
        (301, "PermanentRedirect", "the bucket is in another region", "AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region", "AWS_REGION"),
        (404, "NoSuchBucket", "there is no bucket tests", "see to its name"),
        (404, "NoSuchKey", "there is no such file", "look at its name"),
        (416, "InvalidRange", "it ends before those bytes", "something else wrote it"),
        (501, "NotImplemented", "this store cannot do that", "another store"),
        (503, "SlowDown", "the store is overloaded", "fewer machines"),
        (429, "TooManyRequests", "the store is overloaded", "fewer machines"),
        (500, "InternalError", "the store failed", "see to the store"),
        (418, "Teapot", "its client says: ", "see to the URL"),
    ],
)
def test_what_an_answer_means(
    s3: S3, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, status: int, code: str, why: str, hint: str
) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 0.0)
    fault_proxy.faults = Faults(error_share=1, error=(status, code))
    error = _error(open_store(s3.url))
    assert error.what.startswith(f"cannot read {s3.url}/file: {why}")
    assert hint in error.hint


def test_what_never_passes_is_asked_once(s3: S3, fault_proxy: FaultProxy) -> None:
    for status, code in ((403, "AccessDenied"), (404, "NoSuchKey"), (400, "ExpiredToken")):
        fault_proxy.faults = Faults(error_share=1, error=(status, code))
        fault_proxy.requests.clear()
        _error(open_store(s3.url))
        assert len(fault_proxy.requests) == 1


def test_wrong_and_missing_credentials(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong")
    assert "or they are wrong" in _error(open_store(s3.url)).what
    with pytest.raises(StorageError, match="or they are wrong"):
        open_store(s3.url).stat("file")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    assert "does not know these credentials" in _error(open_store(s3.url)).what
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    error = _error(open_store(s3.url))
    assert "there are no credentials" in error.what
    assert "AWS_ACCESS_KEY_ID" in error.hint


def test_no_bucket_and_no_permission(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = open_store(Url("s3://no-such-bucket/x"))
    calls: list[Callable[[], object]] = [lambda: nowhere.stat("file"), lambda: list(nowhere.list())]
    calls.append(lambda: nowhere.write("file", b"x"))
    for call in calls:
        with pytest.raises(StorageError, match="there is no bucket no-such-bucket"):
            call()
    open_store(s3.url).write("file", b"x")
    for name, value in s3.server.reader.items():
        monkeypatch.setenv(name, value)
    store = open_store(s3.url)
    assert store.read("file") == b"x"
    calls = [lambda: store.write("file", b"y"), lambda: store.create("new", b"y"), lambda: store.delete("file")]
    for call in calls:
        with pytest.raises(StorageError, match="no permission") as caught:
            call()
        assert "AWS_PROFILE" in caught.value.hint


def test_a_public_bucket_needs_no_credentials(
    s3_server: S3Server, s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3_server.make_bucket("public")
    url = Url("s3://public") / s3.url.name
    open_store(url).write("file", b"for all")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store(url)
    assert store.read("file") == b"for all"
    assert [stored.key for stored in open_store(url).list()] == ["file"]
    with pytest.raises(StorageError, match="there are no credentials"):
        store.write("file", b"mine")


def test_secrets_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0IGtleQ==")
    said = (
        "Unexpected (permanent) at read, context: { uri: https://x/y?sig=geheim } => strange answer of "
        "https://x/y?sv=1&sig=geheim to c2VjcmV0IGtleQ==\nSource: more"
    )
    why = explain(Url("az://box/x"), "x", said).why
    assert why == "its client says: strange answer of https://x/y?… to …"


def test_names_and_headers_do_not_decide(s3: S3) -> None:
    assert "there is no such file" in _error(open_store(s3.url), "NoSuchBucket, SlowDown: connection refused").what
    said = (
        'NotFound (permanent) at read, context: { response: Parts { status: 404, headers: {"keep-alive": "timeout"} } }'
    )
    assert explain(Url("az://box/x"), "x", said).why == "there is no such file"


def test_an_account_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT_NAME", "ACCOUNT", "CONNECTION_STRING"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    with pytest.raises(UsageError, match="az://box/x is in an account that nothing names"):
        open_store(Url("az://box/x")).stat("file")
