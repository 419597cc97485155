"""Which cores a rank with a GPU runs on: those near its GPU, where that leaves none idle."""

from collections.abc import Sequence
from pathlib import Path

PCI_DEVICES = Path("/sys/bus/pci/devices")  # Documentation/ABI/testing/sysfs-bus-pci of the Linux kernel


def cores_near(address: str, devices: Path = PCI_DEVICES) -> frozenset[int]:
    """The cores on the memory node of the PCI device `address` (`0000:1b:00.0`); empty where that is not known."""
    try:
        text = (devices / address / "local_cpulist").read_text()
    except OSError:
        return frozenset()
    spans = (span.partition("-") for span in text.strip().split(",") if span)
    return frozenset(core for first, _, last in spans for core in range(int(first), int(last or first) + 1))


def divide_cores(near: Sequence[frozenset[int]], allowed: frozenset[int]) -> list[frozenset[int]] | None:
    """The cores of each local rank, given those near each one's GPU and those `allowed` to all.

    Ranks near the same cores get every n-th of them, so that the hyperthreads of a core, whose numbers are half of
    all apart, stay together. None where a core would be left idle or a rank without one: decoding needs them all, and
    a far core is better than none.
    """
    groups = [cores & allowed for cores in near]
    divided = []
    for rank, group in enumerate(groups):
        same = [other for other, cores in enumerate(groups) if cores == group]
        divided.append(frozenset(sorted(group)[same.index(rank) :: len(same)]))
    return divided if all(divided) and frozenset().union(*divided) == allowed else None
