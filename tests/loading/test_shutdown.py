"""What a loader leaves behind: no thread, native or Python's, and no memory; and that it works in child processes."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path

import psutil
import pytest

from imagesprint.images.native import is_available
from imagesprint.loading.loader import EvaluationLoader, Loader
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import open_dataset

RECIPE = Recipe("test", (Phase((0, 2), (0.1, 0.1), "constant", 16, 4, 24),))
BATCHES = 16

pytestmark = pytest.mark.skipif(not is_available(), reason="the native decoder is not built")


def num_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def falls_to(number: int) -> bool:
    """Whether there are soon no more threads than that: a thread that was joined may be listed a moment longer."""
    deadline = time.monotonic() + 10
    while num_threads() > number and time.monotonic() < deadline:
        time.sleep(0.005)
    return num_threads() <= number  # one that was joined before may have been counted


def to_the_end(loader: Loader) -> None:
    assert len(list(loader)) == BATCHES


def break_off(loader: Loader) -> None:
    for _ in loader:
        break


def fail(loader: Loader) -> None:
    with suppress(ZeroDivisionError):
        for batch in loader:
            _ = batch.step / 0


def close(loader: Loader) -> None:
    batches = iter(loader)
    next(batches)
    loader.close()


def drop(loader: Loader) -> None:
    next(iter(loader))


def begin_again(loader: Loader) -> None:
    batches = iter(loader)
    next(batches)
    to_the_end(loader)


@pytest.mark.parametrize("leave", [to_the_end, break_off, fail, close, drop, begin_again])
def test_no_native_thread_is_left(root_path: Path, leave: Callable[[Loader], None]) -> None:
    gc.collect()
    before = num_threads()
    batches = iter(Loader(root_path, RECIPE, threads=5))
    next(batches)
    assert num_threads() == before + 5  # the one that fills the ring decodes as well
    del batches
    assert falls_to(before)
    leave(Loader(root_path, RECIPE, threads=5))
    assert falls_to(before)


def test_memory_stays_flat_over_many_loaders(root_path: Path) -> None:
    def use(times: int) -> int:
        for number in range(times):
            loader = Loader(root_path, RECIPE, threads=3)
            (to_the_end if number % 2 else break_off)(loader)
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    before, after = use(20), use(60)
    assert after - before < 4 << 20  # each had 3 buffers of 7 kB, 3 readers and 4 threads' stacks


def check_in_child(loader: Loader, expected: list[list[int]]) -> None:
    assert [batch.images.sum(dim=(1, 2, 3)).tolist() for batch in loader] == expected


@pytest.mark.parametrize("context", [multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")])
def test_the_same_stream_in_a_child(root_path: Path, context: ForkContext | SpawnContext) -> None:
    loader = Loader(root_path, RECIPE, threads=3)
    expected = [batch.images.sum(dim=(1, 2, 3)).tolist() for batch in loader]
    child = context.Process(target=check_in_child, args=(loader, expected))
    child.start()
    child.join(120)
    assert child.exitcode == 0


def test_ctrl_c_while_waiting_for_a_batch(root_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from imagesprint import Loader, Phase\n"
        "loader = Loader(sys.argv[1], Phase((0, 10000), (0.1, 0.1), 'constant', 16, 16, 200), threads=3)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "try:\n"
        "    for batch in loader:\n"
        "        if batch.step == 5: print('runs', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.2)\n"
        "    print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    words = [sys.executable, "-c", code, str(root_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "0\n", "")


def test_evaluation_leaves_nothing(root_path: Path) -> None:
    dataset, before = open_dataset(root_path, "full", "validation"), num_threads()
    for _ in EvaluationLoader(dataset, 16, 20, 2, threads=3):
        assert num_threads() > before
        break
    assert falls_to(before)
