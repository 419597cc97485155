"""The batcher by itself, with models of these tests' own in place of a network."""

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imagesprint.console import Console
from imagesprint.errors import ImageError
from imagesprint.inference.opening import OpenModel, by_shape
from imagesprint.serving import batcher as batcher_module
from imagesprint.serving.batcher import MAX_BATCH, MAX_IMAGES, MAX_QUEUE, Batcher
from imagesprint.serving.metrics import Metrics
from imagesprint.serving.refusals import BusyError, ModelError, TimedOutError, TooLargeError
from tiny_server import make_image

SIZE = 8
BAD, POISONED, SHORT = 255, 254, 253  # pixels with which the model below fails, gives no number, gives too few


class Model:
    """Gives of each image its first pixel, three times. It keeps the sizes of batches, and waits where it is held."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.is_held = threading.Event()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        self.is_held.set()
        assert self.may_go.wait(60)
        first = images[:, 0, 0].astype(np.float32)
        if (first == BAD).any():
            raise RuntimeError("out of\norder")
        first[first == POISONED] = np.nan
        return np.compress(first[:, 0] != SHORT, first, axis=0)

    def open(self, checkpoint: str = "model.pt", shape: str = "square") -> OpenModel:
        return OpenModel(
            place=Path(checkpoint),
            checkpoint=Path(checkpoint),
            name="test",
            classes=("a", "b", "c"),
            class_texts=("a", "b", "c"),
            image_size=SIZE,
            resize=SIZE,
            shape=shape,
            step=1,
            runtime="none 1.0",
            precision="fp32",
            batch_size=8,
            description={},
            infer=by_shape(self.infer),
        )


def tensors(*values: int) -> NDArray[np.uint8]:
    """Images of one value each."""
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, SIZE, SIZE, 3), np.uint8)


def run(
    work: Callable[[Batcher], Awaitable[Any]], model: Model, console: Console | None = None, shape: str = "square"
) -> Any:
    """What `work` returns, in an event loop."""

    async def main() -> Any:
        batcher = Batcher(model.open(shape=shape), Metrics(), console or Console.silent())
        try:
            return await work(batcher)
        finally:
            model.may_go.set()
            batcher.close()

    return asyncio.run(main())


async def held(model: Model, batcher: Batcher) -> "asyncio.Task[NDArray[np.float32]]":
    """Have the model be at work on one image, until it may go."""
    model.may_go.clear()
    model.is_held.clear()
    task = asyncio.create_task(batcher.infer(tensors(1)))
    assert await asyncio.to_thread(model.is_held.wait, 60)
    return task


def test_images_of_several_shapes_are_answered_together() -> None:
    model, shapes = Model(), [(16, 8), (8, 16), (16, 8), (8, 8), (8, 12)]

    def encoded(value: int, size: tuple[int, int]) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, (value,) * 3).save(file, "PNG")
        return file.getvalue()

    async def work(batcher: Batcher) -> None:
        first = await held(model, batcher)
        task = asyncio.create_task(batcher.predict([encoded(value, size) for value, size in enumerate(shapes)]))
        await asyncio.sleep(0.1)  # they are decoded meanwhile
        model.may_go.set()
        await first
        answers: Any = await task
        assert np.array_equal(answers, [[value] * 3 for value in range(5)])

    run(work, model, shape="rectangle")
    assert model.batches == [1, 2, 1, 1, 1]  # by their shapes


def test_what_queued_while_a_batch_ran_is_the_next_one() -> None:
    model = Model()

    async def work(batcher: Batcher) -> None:
        first = await held(model, batcher)
        others = [asyncio.create_task(batcher.infer(tensors(value))) for value in range(MAX_BATCH + 5)]
        await asyncio.sleep(0.05)
        model.may_go.set()
        assert (await first).tolist() == [[1, 1, 1]]
        for value, task in enumerate(others):
            assert (await task).tolist() == [[value] * 3]
        assert (await batcher.infer(tensors(7, 8))).tolist() == [[7] * 3, [8] * 3]

    run(work, model)
    assert model.batches == [1, MAX_BATCH, 5, 2]


def test_the_next_batch_is_decoded_while_the_model_works() -> None:
    model = Model()

    async def work(batcher: Batcher) -> None:
        first = await held(model, batcher)
        tasks = [asyncio.create_task(batcher.predict([make_image(seed)])) for seed in range(3)]
        broken = asyncio.create_task(batcher.predict([b"none"]))
        (answer,) = await broken  # behind the three, and of the model none has been answered
        assert isinstance(answer, ImageError)
        assert not any(task.done() for task in (first, *tasks))
        model.may_go.set()
        assert all(len(answers) == 1 for answers in await asyncio.gather(*tasks))

    run(work, model)
    assert model.batches == [1, 3]


def test_what_fails_fails_alone() -> None:
    model, console = Model(), Console.silent()

    async def work(batcher: Batcher) -> list[Any]:
        first = await held(model, batcher)
        values = (3, BAD, 5, POISONED, SHORT)
        tasks = [asyncio.create_task(batcher.infer(tensors(value))) for value in values]
        await asyncio.sleep(0.05)
        model.may_go.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    three, bad, five, poisoned, short = run(work, model, console)
    assert (three.tolist(), five.tolist()) == ([[3] * 3], [[5] * 3])
    assert (type(bad), type(poisoned), type(short)) == (ModelError, ModelError, ModelError)
    assert poisoned.what == "model.pt gives no numbers for this image"
    assert console.warnings[0] == "none 1.0 failed on an image: RuntimeError: out of order"
    assert (len(console.warnings), model.batches) == (2, [1, 5, 1, 1, 1, 1, 1])


def test_an_image_that_cannot_be_decoded_fails_alone() -> None:
    async def work(batcher: Batcher) -> list[Any]:
        return await batcher.predict([make_image(1), b"", make_image(2)[:-20], make_image(3)])

    one, empty, cut, three = run(work, Model())
    assert one.shape == three.shape == (3,)
    assert [error.what.partition(":")[0] for error in (empty, cut)] == ["empty", "damaged"]


def test_no_memory_for_a_batch_is_enough_for_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(batcher: Batcher) -> list[Any]:
        decode = batcher._reader.decode

        def starved(encoded: list[bytes]) -> Any:
            if len(encoded) > 1 or encoded[0] == b"huge":
                raise MemoryError
            return decode(encoded)

        monkeypatch.setattr(batcher._reader, "decode", starved)
        return await batcher.predict([make_image(1), b"huge", make_image(2)])

    one, huge, two = run(work, Model())
    assert one.shape == two.shape == (3,)
    assert isinstance(huge, ModelError)


def test_a_full_queue_says_when_to_come_back() -> None:
    model = Model()

    async def work(batcher: Batcher) -> None:
        first = await held(model, batcher)
        tasks = [
            asyncio.create_task(batcher.infer(tensors(*range(MAX_IMAGES)))) for _ in range(MAX_QUEUE // MAX_IMAGES)
        ]
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as caught:
            await batcher.infer(tensors(*range(MAX_IMAGES)))
        assert caught.value.retry_after == 1
        assert caught.value.what == f"{1 + MAX_QUEUE - MAX_IMAGES} images wait for their turn"
        with pytest.raises(TooLargeError):
            await batcher.infer(tensors(*range(MAX_IMAGES + 1)))
        model.may_go.set()
        done = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [type(result) for result in done].count(BusyError) == 1  # the last of those, which had no room either
        assert (await batcher.infer(tensors(9))).tolist() == [[9] * 3]

    run(work, model)


def test_who_waits_too_long_is_told_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()

    async def work(batcher: Batcher) -> None:
        monkeypatch.setattr(batcher_module, "REQUEST_SECONDS", 0.2)
        await held(model, batcher)
        with pytest.raises(TimedOutError):
            await batcher.infer(tensors(2))
        (answer,) = await batcher.predict([make_image(1)])
        assert isinstance(answer, TimedOutError)
        model.may_go.set()
        assert (await batcher.infer(tensors(3))).tolist() == [[3] * 3]
        assert batcher._pending == 0

    run(work, model)
    assert model.batches == [1, 1]


def test_another_model_takes_over_between_two_batches() -> None:
    model, newer = Model(), Model()

    async def work(batcher: Batcher) -> None:
        first = await held(model, batcher)
        second = asyncio.create_task(batcher.infer(tensors(2)))
        batcher.swap(newer.open("newer.pt"))
        model.may_go.set()
        assert (await first).tolist() == [[1] * 3]
        assert (await second).tolist() == [[2] * 3]
        assert batcher.model.checkpoint == Path("newer.pt")

    run(work, model)
    assert (model.batches, newer.batches) == ([1], [1])
