"""What public clouds ask for requests and for bytes that leave them, by their price lists."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from imagesprint.storage.configuring import service_of
from imagesprint.storage.url import Url

_HOSTS: Final = ("amazonaws.com", "googleapis.com", "core.windows.net")  # of those whose prices these are


@dataclass(frozen=True)
class Requests:
    """How many of each kind: reading a file or a part of it, or looking at it; writing one, or a part; listing."""

    get: int = 0
    put: int = 0
    list: int = 0


@dataclass(frozen=True)
class PriceList:
    """US dollars for 1,000 requests of each kind, and `egress` for 10⁹ bytes that leave the store's region: within it
    they cost nothing. `source` has them, as read on `date`.
    """

    scheme: str
    name: str
    get: float
    put: float
    list: float
    egress: float
    source: str
    date: str

    def of(self, requests: Requests) -> float:
        """Return what so many requests cost, in US dollars."""
        return (requests.get * self.get + requests.put * self.put + requests.list * self.list) / 1000


@cache
def _price_lists() -> tuple[PriceList, ...]:
    text = files("imagesprint.diagnosis").joinpath("storage_prices.json").read_text(encoding="utf-8")
    return tuple(PriceList(**row) for row in json.loads(text))


def price_list(url: Url) -> PriceList | None:
    """Return the price list of the store of `url`; None where it is not known whose that is, or it asks for nothing.

    Raises UsageError where the environment lacks what names the store.
    """
    found = next((prices for prices in _price_lists() if prices.scheme == url.scheme), None)
    if found is None or not service_of(url).address.partition(":")[0].endswith(_HOSTS):
        return None
    return found
