"""What `/metrics` tells: counts and times in the text format of Prometheus, in a registry of the server's own."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from imagesprint.inference.opening import OpenModel
from imagesprint.serving.refusals import GONE

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES: Final = (1, 2, 4, 8, 16, 32)
_REASONS: Final = {
    400: "bad_request",
    413: "too_large",
    415: "no_image",
    422: "damaged_image",
    429: "busy",
    GONE: "gone",
    500: "failed",
    503: "loading",
    504: "timed_out",
}
_FIRST_REFUSAL: Final = 400  # the lowest status of a request that was not answered


class Metrics:
    """Counters that any thread may add to; `text()` is what a scrape gets."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, descriptors, CPU time
        self._seconds = Histogram(
            "imagesprint_request_seconds",
            "From a request's headers to its answer",
            ("endpoint", "status"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._seconds_of: dict[tuple[str, int], Histogram] = {}  # finding a label anew takes longer than counting
        self._rejected = Counter(
            "imagesprint_rejected", "Requests that were not answered as asked", ("reason",), registry=registry
        )
        self._batch = Histogram(
            "imagesprint_batch_images", "Images that the model took at once", buckets=_IMAGES, registry=registry
        )
        self._decode = Histogram(
            "imagesprint_decode_seconds", "Decoding what had queued", buckets=_SECONDS, registry=registry
        )
        self._model = Histogram(
            "imagesprint_model_seconds", "The model on a batch", buckets=_SECONDS, registry=registry
        )
        self._queue = Gauge("imagesprint_queue_images", "Images taken and not answered yet", registry=registry)
        self._step = Gauge("imagesprint_model_step", "Steps that the served model was trained", registry=registry)
        self._info = Info("imagesprint_model", "What is served", registry=registry)
        for reason in _REASONS.values():
            self._rejected.labels(reason)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Have `length` say how many images are taken and not answered yet."""
        self._queue.set_function(length)

    def show_model(self, model: OpenModel) -> None:
        """Tell of `model` from now on."""
        self._step.set(model.step)
        self._info.info({"model": model.name, "runtime": model.runtime, "precision": model.precision})

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that was answered with `status` after `seconds`."""
        found = self._seconds_of.get((endpoint, status))
        if found is None:
            found = self._seconds_of[endpoint, status] = self._seconds.labels(endpoint, str(status))
        found.observe(seconds)
        if status >= _FIRST_REFUSAL:
            self._rejected.labels(_REASONS.get(status, "other")).inc()

    def decoded(self, seconds: float) -> None:
        """Count a decoding of what had queued."""
        self._decode.observe(seconds)

    def inferred(self, images: int, seconds: float) -> None:
        """Count a batch of the model's."""
        self._batch.observe(images)
        self._model.observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
