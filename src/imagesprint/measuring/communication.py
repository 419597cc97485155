"""How long a step's all-reduce takes on given links, and what is left of n times one rank's speed. Pure.

A ring all-reduce sends 2(n − 1)/n of the tensor over each rank's link, in 2(n − 1) sends that wait for one another
(Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Link:
    """What one rank sends over: bytes a second in one direction, and seconds from a send to its arrival."""

    name: str
    bytes_per_second: float
    latency: float


# docs/scaling.md says where each figure is from.
NVLINK4: Final = Link("NVLink 4", 450e9, 3.4e-6)
NDR: Final = Link("InfiniBand NDR, one port a GPU", 50e9, 14e-6)
ETHERNET_100G: Final = Link("Ethernet 100 Gb/s for eight GPUs", 12.5e9 / 8, 30e-6)
NODE: Final = 8  # GPUs that NVLink connects


def ring_all_reduce(size: int, ranks: int, link: Link) -> float:
    """Return the seconds of a ring all-reduce of `size` bytes on `ranks` ranks, each with a `link` of its own."""
    return 2 * (ranks - 1) * (size / ranks / link.bytes_per_second + link.latency)


def all_reduce(size: int, ranks: int, inner: Link, outer: Link, node: int = NODE) -> float:
    """Return the seconds of an all-reduce of `size` bytes over nodes of `node` ranks.

    Within a node, over `inner`, each rank comes to hold the sum of its share; the n-th ranks of all nodes sum their
    shares in a ring over `outer`; then the shares are exchanged within the nodes.
    """
    if ranks <= node:
        return ring_all_reduce(size, ranks, inner)
    return ring_all_reduce(size, node, inner) + ring_all_reduce(size // node, ranks // node, outer)


def efficiency(compute: float, communication: float, hidden: float = 0.0) -> float:
    """Return what is left of linear scaling, 0..1: a step computes for `compute` seconds, and the all-reduce lasts for
    `communication`, of which the backward pass hides up to `hidden` seconds.
    """
    return compute / (compute + max(0.0, communication - hidden))
