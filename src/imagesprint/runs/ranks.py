"""Which rank this process is, on which device and cores, and what ranks do together: sum, and stop."""

import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from imagesprint.errors import HungRankError, LostRankError, RankError, UsageError
from imagesprint.memory import keep_all_freed_memory
from imagesprint.runs import slurm
from imagesprint.runs.environment import (
    STOPPING,
    STORE_VARIABLE,
    TMPDIR_HINT,
    StopSignals,
    find_launch,
    is_elastic,
    rank_environment,
)
from imagesprint.runs.meeting import RANK_TIMEOUT, RankWatch, agree_on_size, await_end, end_told, note_met, open_store

_POLL_SECONDS = 0.0005  # between two looks at whether the device has come to a value
_JOIN_SECONDS = 60.0  # for ranks that start later than others, however short the timeout
# On a GPU a vote is read two steps late: its sum has long arrived then, and the host need not wait for the device.
_GPU_LAG = 2


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `world_size`, the `local_rank`-th of `local_world_size` on this machine.

    `standing_by` more were started that do not take part: those from rank `world_size` on.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    watch: RankWatch = field(default_factory=RankWatch)
    has_own_cores: bool = False  # whether it is bound to cores that it shares with no other local rank
    standing_by: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes files and talks to the user."""
        return self.rank == 0

    @property
    def stands_by(self) -> bool:
        """Whether this rank does not take part: it is in no process group, and has no device."""
        return self.rank >= self.world_size

    def stand_by(self) -> None:
        """Where this rank does not take part: wait until the others have ended. Raises as `await_end` does."""
        await_end(self.rank, self.world_size + self.standing_by)

    @property
    def device_name(self) -> str:
        """The name of this rank's GPU, or cpu."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def threads(self) -> int:
        """CPU threads for this rank: its share of the cores, or OMP_NUM_THREADS where that is less; at least 1."""
        share = max(1, len(os.sched_getaffinity(0)) // (1 if self.has_own_cores else self.local_world_size))
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        return min(share, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else share

    def sum(self, tensor: Tensor) -> None:
        """Replace `tensor` on every rank by its sum over all ranks, the same bits everywhere.

        Raises LostRankError where another rank is gone, HungRankError where one does not answer.
        """
        self.start_sum(tensor)()

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Begin what `sum` does, and return a call that waits for it: on a GPU its stream waits, not the host.

        All ranks begin their sums in the same order. Both calls raise LostRankError where another rank is gone.
        """
        if self.world_size == 1:
            return lambda: None
        with self._in_contact():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            with self._in_contact():
                if self.device.type == "cuda":
                    work.wait()  # the device does, not this thread: see `read`
                else:
                    self.watch.wait(lambda seconds: _completed(work, seconds))

        return wait

    @contextmanager
    def _in_contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistStoreError) and STORE_VARIABLE in os.environ:  # NCCL's ranks meet only here
                raise _cannot_join(self.rank, self.world_size, error) from error
            raise LostRankError(
                f"rank {self.rank} lost contact with another rank",
                "that rank's own message says why; run the same command again to resume",
            ) from error

    def read(self, tensor: Tensor) -> list[Any]:
        """The values of `tensor` once the device has come to them. Raises HungRankError where a rank keeps it waiting.

        Every rank must read where one does.
        """
        if tensor.device.type == "cuda" and self.world_size > 1:
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
            self.await_device(ready)
        values: list[Any] = tensor.tolist()
        return values

    def await_device(self, event: torch.cuda.Event) -> None:
        """Wait until the device has come to `event`. Raises HungRankError where a rank keeps it waiting.

        Every rank must wait where one does.
        """
        self.watch.wait(lambda seconds: _reached(event, seconds))

    def gather(self, value: int) -> list[int]:
        """Every rank's `value` in the order of ranks, on every rank."""
        values = torch.zeros(self.world_size, dtype=torch.int64, device=self.device)
        values[self.rank] = value
        self.sum(values)
        return self.read(values)

    def total(self, value: int) -> int:
        """The sum of every rank's `value`, on every rank."""
        return sum(self.gather(value))

    def check_agreement(self, what: str, value: str) -> None:
        """Check that all ranks hold the same `value`. Raises RankError, on every rank, where they do not."""
        if len(set(self.gather(zlib.crc32(value.encode())))) > 1:
            raise RankError(
                f"the ranks do not agree on {what}: on rank {self.rank} it is {value}",
                "all ranks need the same command, versions, --data and --output, on a disk that they share",
            )

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.total(0)


def _completed(work: dist.Work, seconds: float) -> bool:
    """Wait for a collective on the CPU. Raises RuntimeError where it has failed."""
    try:
        work.wait(timedelta(seconds=seconds))
    except RuntimeError:
        if not work.is_completed():
            return False  # only this wait was too short
        work.wait()  # raises what it failed with, or returns where it was completed in this very moment
    return True


def _reached(event: torch.cuda.Event, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not event.query():  # type: ignore[no-untyped-call]
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@contextmanager
def open_ranks(
    device: str, timeout: float = RANK_TIMEOUT, fitting: Callable[[int], int] | None = None
) -> Iterator[Ranks]:
    """Join the process group that the environment describes, if any, and leave it at the end.

    `device` is auto, cpu or cuda; a rank that keeps the others waiting for `timeout` seconds ends them. What
    `rank_environment` finds makes this a rank of many, or the only one. Where the launch is elastic as many take part
    as `fitting` makes of the number that was started; the others get Ranks that stand by, and are told how the former
    ended (`meeting.await_end`).

    Raises UsageError where CUDA is asked for and not there, RankError where the environment is incomplete or there are
    more ranks than GPUs.
    """
    rank, started, local_rank, local_world_size = rank_environment()
    store, size = None, started
    if started > 1:
        with _joining(rank, started):
            store = open_store(rank, started, _join_seconds(timeout))
            if fitting is not None and is_elastic():
                size = agree_on_size(store, rank, started, fitting)
    if rank >= size:
        yield Ranks(rank, size, local_rank, local_world_size, torch.device("cpu"), standing_by=started - size)
        return
    watch = RankWatch(rank, size, timeout)
    chosen = choose_device(device, local_rank)
    bound = slurm.has_own_cores(len(os.sched_getaffinity(0)))
    bound = bound or (chosen.type == "cuda" and _bind_near_gpu(local_rank, local_world_size))
    ranks = Ranks(rank, size, local_rank, local_world_size, chosen, watch, bound, started - size)
    torch.set_num_threads(ranks.threads)
    if chosen.type == "cpu":
        keep_all_freed_memory()
    else:
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.deterministic = True  # the same counts every time; training allows itself more
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32, but in evaluations, which say so
    with ExitStack() as stack:
        if store is not None and ranks.is_main and ranks.standing_by:
            stack.enter_context(end_told(store, range(size, started)))
        if store is not None and size > 1:
            stack.enter_context(_process_group(ranks, store, timeout))
        yield ranks


@contextmanager
def _process_group(ranks: Ranks, store: Store, timeout: float) -> Iterator[None]:
    backend, limit = "nccl" if ranks.device.type == "cuda" else "gloo", timedelta(seconds=_join_seconds(timeout))
    launch = find_launch()
    if launch is not None:
        launch.choose_interface()
    with _joining(ranks.rank, ranks.world_size):
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=limit)
    try:
        note_met(ranks.rank)
        yield
    except HungRankError:
        raise  # to leave the group would mean to wait for that rank
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _join_seconds(timeout: float) -> float:
    return 2 * timeout + _JOIN_SECONDS  # PyTorch's limit: ours names the rank, so it comes first


@contextmanager
def _joining(rank: int, started: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise _cannot_join(rank, started, error) from error


def _cannot_join(rank: int, started: int, error: Exception) -> RankError:
    store, launch = os.environ.get(STORE_VARIABLE), find_launch()  # the first is a file, which `--processes` made
    hint = (
        TMPDIR_HINT if store else "start the ranks with --processes or torchrun, which set MASTER_ADDR and MASTER_PORT"
    )
    if launch is not None:
        hint = (
            f"{launch.launcher}'s tasks meet at {launch.address}:{launch.port}, on rank 0's machine: MASTER_ADDR and "
            "MASTER_PORT, set on all, name another place"
        )
    return RankError(
        f"rank {rank} of {started} cannot join the others{f' over {store}' if store else ''}: "
        f"{str(error).splitlines()[0]}",
        hint,
    )


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """The torch device for auto (a GPU where there is one), cpu or cuda. Raises UsageError or RankError."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UsageError("--device cuda: PyTorch finds no CUDA device here", "use --device auto or --device cpu")
    if device == "cpu" or not available:
        return torch.device("cpu")
    if torch.cuda.device_count() == 1 and slurm.has_own_gpu():
        return torch.device("cuda", 0)
    if local_rank >= torch.cuda.device_count():
        raise RankError(
            f"local rank {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}",
            f"--processes {torch.cuda.device_count()} gives every rank one",
        )
    return torch.device("cuda", local_rank)


class StopVote:
    """Sums over the ranks, once a step, the signals that they noted in `signals`.

    A rank that noted one and waits for others in vain, here or elsewhere, soon gives up (`RankWatch.heed`).
    """

    def __init__(self, ranks: Ranks, signals: StopSignals) -> None:
        self._ranks, self._signals = ranks, signals
        self._on_gpu = ranks.device.type == "cuda"
        self._lag = _GPU_LAG if self._on_gpu else 0
        self._votes: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        ranks.watch.heed(signals)

    def __call__(self) -> int:
        """Vote for stopping by the signal that came, if any. Every rank calls it after every step.

        Returns the same on every rank: the signal for which all end after this step, or 0.
        """
        if self._ranks.world_size == 1:
            return self._signals.number
        self._votes.append(self._cast(self._signals.number))
        if len(self._votes) <= self._lag:
            return 0
        counts, ready = self._votes.popleft()
        if ready is not None:
            self._ranks.await_device(ready)
        agreed = next((int(signal) for signal, count in zip(STOPPING, counts.tolist(), strict=True) if count), 0)
        if agreed:
            self._ranks.watch.heed(None)  # saving takes the time that it needs
        return agreed

    def _cast(self, number: int) -> tuple[Tensor, torch.cuda.Event | None]:
        votes = torch.tensor([signal == number for signal in STOPPING], dtype=torch.int32, pin_memory=self._on_gpu)
        if not self._on_gpu:
            self._ranks.sum(votes)
            return votes, None
        summed = votes.to(self._ranks.device, non_blocking=True)
        self._ranks.sum(summed)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        counts = torch.empty_like(votes, pin_memory=True).copy_(summed, non_blocking=True)
        ready.record()
        return counts, ready


PCI_DEVICES = Path("/sys/bus/pci/devices")  # Documentation/ABI/testing/sysfs-bus-pci of the Linux kernel


def _bind_near_gpu(local_rank: int, local_world_size: int) -> bool:
    """Bind this process to its share of the cores near its GPU, if cores can be divided so; returns whether it is.

    Alone, or on CPUs, a rank keeps all cores that it was given: memory follows there by itself.
    """
    if local_world_size == 1 or torch.cuda.device_count() < local_world_size:
        return False
    near = [cores_near(_pci_address(gpu)) for gpu in range(local_world_size)]
    divided = divide_cores(near, frozenset(os.sched_getaffinity(0)))
    if divided is not None:
        os.sched_setaffinity(0, divided[local_rank])
    return divided is not None


def _pci_address(gpu: int) -> str:
    properties: Any = torch.cuda.get_device_properties(gpu)
    if not hasattr(properties, "pci_bus_id"):  # torch 2.8 may not tell
        return ""
    return f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"


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
