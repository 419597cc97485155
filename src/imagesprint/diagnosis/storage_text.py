"""What `plan` and `train` say, before anything begins, of the stores that data and run lie in."""

import textwrap
from typing import Final

from imagesprint.console import duration, size
from imagesprint.diagnosis.storage_plan import DataStorage, Price, RunStorage, Storage

_WIDTH: Final = 99
_INDENT: Final = 12


def storage_lines(storage: Storage | None) -> list[str]:
    """Return the lines; none where all lies on this machine."""
    if storage is None:
        return []
    paragraphs = [] if storage.data is None else _data(storage.data)
    paragraphs += [] if storage.run is None else _run(storage.run)
    return [line for name, text in paragraphs for line in _wrapped(name, text)]


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{name:<{_INDENT}}",
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _data(data: DataStorage) -> list[tuple[str, str]]:
    whole, there = (sum(getattr(split, name) for split in data.splits) for name in ("num_bytes", "cached_bytes"))
    known = f", {size(there)} of them in the cache" if data.cache is not None else ""
    found = [("data", f"{data.url}: {size(whole)}{known}; {size(data.download_bytes)} to fetch{_time(data)}")]
    if data.cache is not None:
        limit = "" if data.cache.limit is None else f", by --cache-limit {size(data.cache.limit)}"
        holds = (
            f"{data.cache.folder} has room for {size(data.cache.room)}{limit}; {size(data.cache.num_bytes)} of it go to"
        )
        found.append(("cache", f"{holds} this training"))
    found += [
        (
            "streamed",
            f"the cache has no room for {size(num_bytes)} of phase {index}: they come from the store in every epoch",
        )
        for index, num_bytes in enumerate(data.streamed_bytes_per_epoch)
        if num_bytes
    ]
    counts = data.requests
    asked = f"{counts.get:,} to read at the most, {counts.list:,} to list"
    egress = (
        f"; {_dollars(data.price.egress)} for {size(data.egress_bytes)} more if they leave its region"
        if data.price
        else ""
    )
    return [*found, ("requests", f"{asked}{_cost(data.price)}{egress}")]


def _time(data: DataStorage) -> str:
    if data.speed is None or data.download_seconds is None:
        return "; for how long is not known: `imagesprint plan` measures the store" if data.cache is not None else ""
    speed = f"{size(data.speed.bytes_per_second)}/s and {data.speed.requests_per_second:,.0f} requests/s"
    waits = (
        f"training waits {_seconds(data.first_step_seconds)} before its first step and {_seconds(data.waiting_seconds)}"
    )
    return f" in {_seconds(data.download_seconds)}, at {speed} (measured on {data.speed.made}); {waits} later"


def _run(run: RunStorage) -> list[tuple[str, str]]:
    text = f"{run.url}: {size(run.upload_bytes)} of checkpoints to send"
    if run.speed is not None:
        each, end = _seconds(run.seconds_each), _seconds(run.seconds_at_the_end)
        speed = f"at {size(run.speed.bytes_per_second)}/s (measured on {run.speed.made})"
        text = f"{text}, each in {each} beside the training, {speed}; it ends {end} later for the last ones"
    counts = run.requests
    asked = f"{counts.put:,} to write, {counts.get:,} to read, {counts.list:,} to list, at the most"
    return [("run", text), ("requests", f"{asked}{_cost(run.price)}")]


def _cost(price: Price | None) -> str:
    if price is None:
        return ": what this store asks for them is not known"
    return f": {_dollars(price.requests)} by the list of {price.by} ({price.date})"


def _dollars(amount: float) -> str:
    return f"{amount:,.2f} USD" if amount >= 0.005 else "less than 0.01 USD"


def _seconds(seconds: float | None) -> str:
    assert seconds is not None
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
