"""What `doctor` looks at in the store of a ROOT or a run: the way in, rights, clock, and how fast it is."""

import os
import time
import urllib.error
import urllib.request
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from secrets import token_hex
from typing import Final

from imagesprint.console import size
from imagesprint.diagnosis.check import Check, failure, ok, warning
from imagesprint.diagnosis.store_speed import (
    LOOKS,
    PROBE,
    Extent,
    ReadSpeed,
    keep_speed,
    measure_reading,
    measure_writing,
    shards_of,
)
from imagesprint.errors import ImagesprintError
from imagesprint.records.dataset import Root, open_root
from imagesprint.records.remote.downloads import FILLING, MOST_FILLING, THREADS
from imagesprint.records.remote.metadata import FOLDER
from imagesprint.runs.sending import RECIPE
from imagesprint.storage.cache import cache_folder, cache_limit, capacity
from imagesprint.storage.configuring import service_of
from imagesprint.storage.store import Store, open_store
from imagesprint.storage.url import Url

FAR_SECONDS: Final = 0.05  # latency beyond which the store is hardly in the same region
SLOW: Final = 20e6  # bytes a second, with which 160-pixel images of 11 KB (docs/loader.md) come at 1,800 a second
LATE: Final = 60.0  # seconds between two clocks worth saying; S3 refuses from 900 on (RequestTimeTooSkewed)
REFUSED: Final = 900.0
_CLOCK_SECONDS: Final = 5.0


def data_store_checks(url: Url) -> tuple[list[Check], Root | None]:
    """Return the checks of the ROOT at `url`, and that ROOT, where it can be read."""
    checks, store = _way_in(url)
    if store is None:
        return checks, None
    try:
        root = open_root(url)
    except ImagesprintError as error:
        return [*checks, failure("store", error.what, error.hint)], None
    checks.append(ok("store", f"{url} holds the variants {', '.join(root.variants)}"))
    checks += _speeds(store, shards_of(root))
    return [*checks, _cache(root)], root


def run_store_checks(url: Url) -> tuple[list[Check], bool]:
    """Return the checks of the run at `url`, which need not be there yet, and whether one is."""
    checks, store = _way_in(url)
    if store is None:
        return checks, False
    try:
        is_run = store.stat(RECIPE) is not None
        files = [Extent(stored.key, stored.num_bytes) for stored in store.list() if stored.num_bytes] if is_run else []
    except ImagesprintError as error:
        return [*checks, failure("store", error.what, error.hint)], False
    checks.append(ok("store", f"{url} holds a run" if is_run else f"{url} holds no run yet"))
    checks += _speeds(store, files)
    return [*checks, _writing(store)], is_run


def _way_in(url: Url) -> tuple[list[Check], Store | None]:
    """The checks of credentials and clock, and the store; None where nothing can be asked."""
    try:
        store, endpoint, style = open_store(url), *_endpoint(url)
    except ImagesprintError as error:
        return [failure("store", error.what, error.hint)], None
    found = ok("credentials", f"{found_credentials(url)}; asked is {style}")
    return [found, *([_clock(endpoint)] if endpoint else [])], store


def _endpoint(url: Url) -> tuple[str, str]:
    """The URL that requests go to, empty for HDFS, and that in words."""
    if url.scheme == "hdfs":
        return "", f"the NameNode {url.host}"
    service = service_of(url)
    if "enable_virtual_host_style" not in service.options:
        return service.options.get("endpoint", f"https://{service.address}"), service.address
    path_style = service.options["enable_virtual_host_style"] != "true"
    where = "path" if path_style else "host's name"
    region = service.options["region"]
    return service.options["endpoint"], f"{service.address}, region {region}, with the bucket in the {where}"


def found_credentials(url: Url) -> str:
    """Return by which of the store's own ways this process would show who it is, in words; never what it shows."""
    for names, files, words in _WAYS.get(url.scheme, ()):
        if names and all(os.environ.get(name) for name in names):
            return f"{' and '.join(names)} of the environment{words}"
        for file in files:
            if Path(file).expanduser().is_file():
                return f"{file}{words}"
    return _ELSE.get(url.scheme, "none are needed")


# In the order in which they are looked for: variables, files, and what to add.
_WAYS: Final[dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]]] = {
    "s3": (
        (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), (), ""),
        (("AWS_PROFILE",), (), ", a profile of ~/.aws"),
        ((), ("~/.aws/credentials",), ""),
        (("AWS_WEB_IDENTITY_TOKEN_FILE",), (), ", a web identity"),
        (("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",), (), ", a container's role"),
        (("AWS_CONTAINER_CREDENTIALS_FULL_URI",), (), ", a container's role"),
        ((), ("~/.aws/config",), ""),
    ),
    "gs": (
        (("STORAGE_EMULATOR_HOST",), (), ", which needs none"),
        (("GOOGLE_APPLICATION_CREDENTIALS",), (), ""),
        ((), ("~/.config/gcloud/application_default_credentials.json",), ""),
    ),
    "az": (
        (("AZURE_STORAGE_CONNECTION_STRING",), (), ""),
        (("AZURE_STORAGE_ACCOUNT_KEY",), (), ""),
        (("AZURE_STORAGE_KEY",), (), ""),
        (("AZURE_STORAGE_SAS_TOKEN",), (), ""),
    ),
    "hdfs": ((("KRB5CCNAME",), (), ", a Kerberos ticket"), (("HADOOP_USER_NAME",), (), "")),
}
_ELSE: Final = {
    "s3": "none but the role of this machine, if it has one; public buckets need none",
    "gs": "none but the service account of this machine, if it has one; public buckets need none",
    "az": "none but the identity of this machine, if it has one",
    "hdfs": "the name of this process's user",
}


def _clock(endpoint: str) -> Check:
    """This machine's clock beside the store's, which any answer tells, a refusal too."""
    name = "clock"
    request, began = urllib.request.Request(endpoint, method="HEAD"), time.time()
    try:
        with urllib.request.urlopen(request, timeout=_CLOCK_SECONDS) as answer:
            text = answer.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        text = error.headers.get("Date", "")
    except (OSError, ValueError):
        return ok(name, "not compared with the store's, which did not answer")
    there = None
    with suppress(TypeError, ValueError):
        there = parsedate_to_datetime(text).timestamp()
    if there is None:
        return ok(name, "not compared with the store's, which does not tell it")
    apart = (began + time.time()) / 2 - there
    found = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the store's"
    hint = "set the clock, as `timedatectl set-ntp true` does"
    if abs(apart) >= REFUSED:
        return failure(name, f"{found}: signed requests are refused", hint)
    return warning(name, found, hint) if abs(apart) >= LATE else ok(name, "within a minute of the store's")


def _speeds(store: Store, files: list[Extent]) -> list[Check]:
    """The checks of reading, which is measured where there is something to read."""
    if not files:
        return []
    try:
        found = measure_reading(store, files)
    except ImagesprintError as error:
        return [failure("read", error.what, error.hint)]
    keep_speed(store.url, found)
    return [ok("read", "permitted"), *speed_checks(found)]


def speed_checks(speed: ReadSpeed) -> list[Check]:
    """Return the checks of a store's speed: whether it is near, and wide enough."""
    far = "train in the store's region; see that the endpoint is the nearest one, and that no proxy is on the way"
    latency = f"median {1e3 * speed.latency:.1f} ms, worst {1e3 * speed.worst_latency:.1f} ms of up to {LOOKS} requests"
    width = f"{size(speed.one_stream)}/s by one request at a time, {size(speed.bytes_per_second)}/s by {MOST_FILLING}"
    requests = f"{speed.requests_per_second:,.0f} a second of single records, by {THREADS - FILLING} at a time"
    is_far, is_slow = speed.latency > FAR_SECONDS, speed.bytes_per_second < SLOW
    return [
        warning("latency", latency, far) if is_far else ok("latency", latency),
        warning("throughput", width, f"{far}; smaller variants need less") if is_slow else ok("throughput", width),
        ok("requests", requests),
    ]


def _writing(store: Store) -> Check:
    """Whether a run can be kept there: a file that nobody else may make, and one in many bytes."""

    key = f"{PROBE}{token_hex(8)}"
    try:
        store.create(key, b"imagesprint doctor")  # raises where the store does not keep to "if it is not there"
        store.delete(key)
        speed = measure_writing(store)
    except ImagesprintError as error:
        return failure("write", error.what, error.hint)
    keep_speed(store.url, speed)
    return ok("write", f"permitted, {size(speed.bytes_per_second)}/s; of two who make one file only one does")


def _cache(root: Root) -> Check:
    """Whether the cache has room for the largest variant."""
    folder, limit, name = cache_folder(), cache_limit(), "cache"
    sizes = {
        variant: sum(shard.bytes for split in root.manifest(variant).splits.values() for shard in split.shards)
        for variant in root.variants
    }
    room, most = capacity(folder / FOLDER), max(sizes.values())
    of_limit = "" if limit is None else f", by --cache-limit {size(limit)}"
    found = f"{folder} has room for {size(room)}{of_limit}; the variants have " + ", ".join(map(size, sizes.values()))
    if room >= most:
        return ok(name, found)
    hint = "a larger --cache-limit, or --cache on a larger disk: what has no room is read again in every epoch"
    return warning(name, found, hint)
