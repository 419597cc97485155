"""What becomes of a pool's threads and memory, whoever calls it and however it ends."""

import gc
import io
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.images.decoders import Outcome, Pool
from imagesprint.images.decoding import DecodeRequest
from imagesprint.images.native import LIBRARY, shrink_jpeg

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the native decoder is not built")

PHOTO = Image.fromarray(load_sample_images().images[0])


def encode(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


GOOD = encode(PHOTO.resize((200, 150)), quality=90)


def run(pool: Pool, encoded: list[bytes]) -> tuple[Outcome, NDArray[np.uint8]]:
    """Decode images of 200 × 150 pixels."""
    crops, flips = np.tile(np.array([0, 0, 200, 150], np.int32), (len(encoded), 1)), np.zeros(len(encoded), np.bool_)
    request = DecodeRequest(encoded, crops, flips, True, np.zeros((len(encoded), 16, 16, 3), np.uint8))
    return pool.run(request), request.out


def decode(pool: Pool, count: int) -> NDArray[np.uint8]:
    outcome, out = run(pool, [GOOD] * count)
    assert not outcome.status.any()
    return out


def test_threads_end_with_the_pool() -> None:
    gc.collect()  # pools of other tests
    process = psutil.Process()
    before = process.num_threads()
    pool = Pool(5)
    decode(pool, 9)
    assert process.num_threads() == before + 4
    pool.close()
    assert process.num_threads() == before
    decode(again := Pool(3), 9)
    del again
    gc.collect()
    assert process.num_threads() == before


def test_a_forked_child_has_threads_of_its_own() -> None:
    pool = Pool(3)
    expected = decode(pool, 20)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            same = (decode(pool, 20) == expected).all()
            enough = psutil.Process().num_threads() >= 3
            pool.close()
            os._exit(0 if same and enough else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert (decode(pool, 20) == expected).all()


def test_a_pool_is_shared_by_threads_in_turn() -> None:
    pool = Pool(2)
    expected = decode(pool, 8)
    wrong: list[int] = []

    def work() -> None:
        for _ in range(20):
            if (decode(pool, 8) != expected).any():
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_closing_while_others_wait_for_their_turn() -> None:
    before = psutil.Process().num_threads()
    expected = decode(Pool(1), 8)
    for _ in range(10):
        pool = Pool(2)
        under_way = threading.Barrier(5)
        ends: list[str] = []

        def work(pool: Pool, under_way: threading.Barrier, ends: list[str]) -> None:
            under_way.wait()
            try:
                while (decode(pool, 8) == expected).all():
                    pass
                ends.append("wrong pixels")
            except ValueError as error:
                ends.append(str(error))

        threads = [threading.Thread(target=work, args=(pool, under_way, ends), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        under_way.wait()
        decode(pool, 8)  # comes to its turn: by then the others are under way
        pool.close()
        for thread in threads:
            thread.join(30)
        assert ends == ["the pool is closed"] * 4
    ended = time.monotonic() + 10  # Python's own threads leave a moment after `join`
    while psutil.Process().num_threads() > before and time.monotonic() < ended:
        time.sleep(0.01)
    assert psutil.Process().num_threads() <= before  # one of an earlier test may have been counted


def test_memory_stays_flat() -> None:
    pool = Pool(2)
    cmyk, progressive = encode(PHOTO.convert("CMYK")), encode(PHOTO, progressive=True)
    encoded = [GOOD, GOOD[:3000], b"", cmyk, progressive, encode(PHOTO, subsampling="4:4:4")] * 4

    def work(times: int) -> int:
        for _ in range(times):
            run(pool, encoded)
            shrink_jpeg(GOOD, [20, 40], 90)
        return int(psutil.Process().memory_info().rss)

    before = work(20)
    assert work(100) - before < 3 << 20
