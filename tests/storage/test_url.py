"""Places: what is a URL, what a path, and what neither."""

from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.storage.url import Url, parse_place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("data/flowers", Path("data/flowers")),
        ("/data/s3:/x", Path("/data/s3:/x")),
        ("file:///data/a%20b", Path("/data/a b")),
        ("file://localhost/data", Path("/data")),
        ("file:///data/a#b", Path("/data/a#b")),
        ("s3://bucket/data/", Url("s3://bucket/data")),
        ("S3://bucket//data///x", Url("s3://bucket/data/x")),
        ("s3://bucket/a b%20+#?é", Url("s3://bucket/a b%20+#?é")),
        ("hdfs://host:9000/x", Url("hdfs://host:9000/x")),
        ("hdfs:///x", Url("hdfs:///x")),
        ("http://[::1]:80/x", Url("http://[::1]:80/x")),
        ("https://host/a%20b.tar", Url("https://host/a%20b.tar")),
    ],
)
def test_what_a_text_names(text: str, place: Path | Url) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ftp://host/x", "there is no storage ftp://"),
        ("s3://", "names no bucket or host"),
        ("s3:///x", "names no bucket or host"),
        ("file://host/x", "names no other host"),
        ("hdfs://host:port/x", "the port is no number"),
        ("s3://bucket/../x", "no parts . or .."),
        ("s3://bucket/x\n", "no control characters"),
        ("https://name:geheim@host/x", "https://…@host: a URL with a user"),
        ("s3://geheim:geheim@bucket/x", "s3://…@bucket: a URL with a user"),
        ("az://container@account/x", "az://…@account: a URL with a user"),
        ("https://host/x?X-Amz-Signature=geheim", "https://host/x?…: a URL with a query"),
        ("http://host?geheim", "http://host?…: a URL with a query"),
    ],
)
def test_what_is_no_place(text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_place(text)
    assert what in caught.value.what
    assert caught.value.hint
    assert "geheim" not in caught.value.what + caught.value.hint


def test_it_joins_and_prints_as_a_path_does() -> None:
    url = Url("s3://bucket/data")
    assert str(url / "a" / "b.tar") == "s3://bucket/data/a/b.tar"
    assert (url.scheme, url.host, url.key, url.name) == ("s3", "bucket", "data", "data")
    assert (url / "b.tar").suffix == ".tar"
    assert url.parent == Url("s3://bucket")
    assert url.parent.parent == url.parent
    assert Url("hdfs:///x").parent / "y" == Url("hdfs:///y")
