"""The work of one worker: one shard in all its variants, each source image read and decoded once.

Natively where that is possible, else by Pillow; both give the same JPEGs but for pixels that are rounded otherwise.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from types import TracebackType

import google_crc32c
import numpy as np
import numpy.typing as npt
from PIL import Image

from imagesprint.errors import DataError, FileError, ImageError
from imagesprint.files import naming
from imagesprint.images.coding import encode_jpeg, is_plain_jpeg, kind_of, open_image, shrink
from imagesprint.images.decoding import to_rgb
from imagesprint.images.native import shrink_jpeg
from imagesprint.prepare.parts import CONTENT_BYTES, NO_IMAGE, Parts, Rejection, ShardResult, coder
from imagesprint.prepare.plan import Shard
from imagesprint.prepare.sources.source import Source, SourceImage
from imagesprint.records.dataset import FULL, variant_size
from imagesprint.records.image_record import ImageRecord, no_boxes
from imagesprint.records.index import Index
from imagesprint.records.manifest import ClassInfo, ShardInfo
from imagesprint.records.tfrecord import frame_pieces

DECODE = "decode"  # what CPU seconds are spent on beside the variants: reading, hashing and decoding
_TICK = 16  # images between two reports of progress


@dataclass(frozen=True)
class StoredImage:
    """An image as a variant stores it: a JPEG or raw pixels, its height and its width."""

    encoded: bytes
    height: int
    width: int


class CpuMeter:
    """Sums up the CPU seconds of this thread by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.thread_time()

    def lap(self, name: str) -> None:
        """Count what was spent since the lap before as spent on `name`."""
        self.split({name: 1.0})

    def split(self, shares: Mapping[str, float]) -> None:
        """Count what was spent since the lap before in these proportions, which are positive."""
        now = time.thread_time()
        each = (now - self._last) / sum(shares.values())
        for name, share in shares.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + share * each
        self._last = now


@dataclass(frozen=True)
class ShardJob:
    """All that a worker needs to write one shard.

    `duplicates` has the positions of its images that are in validation too, with the place of the file there.
    """

    source: Source
    shard: Shard
    classes: tuple[ClassInfo, ...]  # those of the shard's samples, by label
    parts: Parts
    quality: int
    duplicates: Mapping[int, str] = field(default_factory=dict)

    def rejection(self, position: int, reason: str) -> Rejection:
        """Return the row of rejected.jsonl for the image at a position."""
        return {"split": self.shard.split, "file": self.shard.samples[position].location, "reason": reason}

    def duplicate(self, position: int) -> Rejection:
        """Return the row for the image at a position of `duplicates`."""
        return self.rejection(position, f"duplicate: the same content as validation file {self.duplicates[position]}")

    def has_rejected_duplicates(self, result: ShardResult) -> bool:
        """Return whether `result` is of the shard without its duplicates."""
        return all(self.duplicate(position) in result.rejected for position in self.duplicates)


def write_shard(job: ShardJob, on_images: Callable[[int], None]) -> ShardResult:
    """Write the shard in every variant of the job, then its sidecar; return what the sidecar says.

    `on_images` is told now and then how many more source images are done. Raises DataError if the source changed
    meanwhile or the shard cannot be written.
    """
    variants, parts, shard = job.parts.variants, job.parts, job.shard
    with writing():
        parts.reopen_shard(shard.name)
    images = _Images(job)
    with ExitStack() as stack:
        writers = {variant: stack.enter_context(_ShardWriter(parts, variant, shard.name)) for variant in variants}
        files = zip(shard.samples, job.source.read_all(shard.samples), strict=True)
        for position, (sample, data) in enumerate(files):
            for variant, image in images.store(position, data).items():
                record = _to_record(sample, job.classes[sample.label], image, parts.image_format)
                writers[variant].add(record, sample.label)
                images.meter.lap(variant)
            if (position + 1) % _TICK == 0:
                on_images(_TICK)
        on_images(len(shard.samples) % _TICK)
        result = images.result({variant: writer.finish() for variant, writer in writers.items()})
        with writing():
            parts.finish_shard(result)
    return result


class _Images:
    """The images of a shard on their way into its variants, and what is found out about them."""

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._rejected: list[Rejection] = []
        self._converted: dict[str, list[int]] = {}
        self._contents = [NO_IMAGE] * len(job.shard.samples)
        self.meter = CpuMeter()

    def store(self, position: int, data: bytes) -> dict[str, StoredImage]:
        """Return what each variant stores of the image at `position`, of the file `data`; nothing if it is rejected."""
        job, parts = self._job, self._job.parts
        content = sha256(data).digest()[:CONTENT_BYTES]  # processors have instructions for it
        if position in job.duplicates:
            self._contents[position] = content
            self._rejected.append(job.duplicate(position))
            return {}
        try:
            stored, former = store(data, parts.variants, job.quality, parts.image_format, self.meter)
        except ImageError as error:
            self._rejected.append(job.rejection(position, error.what))
            return {}
        self._contents[position] = content
        if former:
            self._converted.setdefault(former, []).append(position)
        return stored

    def result(self, variants: dict[str, ShardInfo]) -> ShardResult:
        """Return the result of the shard, now that it is written."""
        shard = self._job.shard
        return ShardResult(
            shard.split,
            shard.name,
            variants,
            tuple(self._rejected),
            self._converted,
            b"".join(self._contents).hex(),
            self.meter.seconds,
        )


def store(
    data: bytes, variants: tuple[str, ...], quality: int, image_format: str, meter: CpuMeter
) -> tuple[dict[str, StoredImage], str]:
    """Return what each variant stores of a source file and, where that is no JPEG in RGB or grey, what it is.

    An image that is no larger than a variant is stored as in "full": the original bytes of a JPEG in RGB or grey (one
    more encoding would only lose), anything else encoded. A larger one is shrunk from the original pixels and encoded.
    As "raw" the pixels are stored instead. Raises ImageError with the reason if the file is rejected, which does not
    depend on the variants.
    """
    stored = _store_natively(data, variants, quality, image_format, meter)
    return (stored, "") if stored else _store_by_pillow(data, variants, quality, image_format, meter)


def _store_natively(
    data: bytes, variants: tuple[str, ...], quality: int, image_format: str, meter: CpuMeter
) -> dict[str, StoredImage] | None:
    """Do the work of `store`; None where the file is not one for the native decoder, or that is not there."""
    if coder() != "native":
        return None
    anew = [variant for variant in variants if variant != FULL or image_format == "raw"]
    sides = [int(variant_size(variant)) for variant in anew]
    made = shrink_jpeg(data, sides, 0 if image_format == "raw" else quality)
    if made is None:
        return None
    info = made.info
    stored = dict.fromkeys(variants, StoredImage(data, info.height, info.width))
    for variant, version in zip(anew, made.versions, strict=True):
        if version.encoded:
            stored[variant] = StoredImage(version.encoded, version.height, version.width)
    seconds = {variant: version.seconds for variant, version in zip(anew, made.versions, strict=True)}
    meter.split({DECODE: made.decode_seconds, **seconds})
    return stored


def _store_by_pillow(
    data: bytes, variants: tuple[str, ...], quality: int, image_format: str, meter: CpuMeter
) -> tuple[dict[str, StoredImage], str]:
    image = open_image(data)
    former = "" if is_plain_jpeg(image) else kind_of(image)
    rgb = to_rgb(image)
    meter.lap(DECODE)
    unchanged = None
    stored = {}
    for variant in variants:
        smaller = shrink(rgb, variant_size(variant))
        if smaller is not rgb:
            stored[variant] = _encode(smaller, quality, image_format)
        else:
            if unchanged is None:
                keep = image_format == "jpeg" and not former
                unchanged = StoredImage(data, rgb.height, rgb.width) if keep else _encode(rgb, quality, image_format)
            stored[variant] = unchanged
        meter.lap(variant)
    return stored, former


def _encode(rgb: Image.Image, quality: int, image_format: str) -> StoredImage:
    encoded = encode_jpeg(rgb, quality) if image_format == "jpeg" else rgb.tobytes()
    return StoredImage(encoded, rgb.height, rgb.width)


@contextmanager
def writing() -> Iterator[None]:
    """Turn a FileError of writing a ROOT into a DataError that says what to do."""
    try:
        yield
    except FileError as error:
        raise DataError(
            error.what,
            "see to its disk, space and permissions, then give the same command again: it goes on where it stopped",
        ) from error


def _to_record(sample: SourceImage, info: ClassInfo, image: StoredImage, image_format: str) -> ImageRecord:
    return ImageRecord(
        encoded=image.encoded,
        height=image.height,
        width=image.width,
        label=sample.label,
        synset=info.synset,
        text=info.text,
        filename=sample.name,
        boxes=np.array(sample.boxes, np.float32) if sample.boxes else no_boxes(),
        image_format=image_format,
    )


class _ShardWriter:
    """Writes one shard of one variant, and its rows of the index, under temporary names until `finish`.

    Every method raises DataError if the file system does not let it.
    """

    def __init__(self, parts: Parts, variant: str, name: str) -> None:
        self._path = parts.root / variant / name
        self._index_path = parts.index_path(variant, name)
        # A name of its own: a worker of a killed run may not have noticed yet that it is alone.
        self._temporary = parts.folder / f"{variant}-{name}.{os.getpid()}.tmp"
        with self._writing():
            self._file = self._temporary.open("wb")
        self._crc = 0
        self._size = 0
        self._rows: list[tuple[int, ...]] = []
        self._boxes: list[npt.NDArray[np.float32]] = []

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:  # which comes first; the next command removes what is left
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def add(self, record: ImageRecord, label: int) -> None:
        payload, start = record.encode()
        pieces = frame_pieces(payload)
        with self._writing():
            self._file.writelines(pieces)
        self._rows.append((self._size, len(payload), start, len(record.encoded), label, record.height, record.width))
        self._boxes.append(record.boxes)
        for piece in pieces:
            self._crc = google_crc32c.extend(self._crc, piece)
            self._size += len(piece)

    def finish(self) -> ShardInfo:
        """Give the shard its name and write its part of the index."""
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)
            index = Index.of_shard(self._path.name, self._size, self._rows, self._boxes)
            index.write(self._index_path)
        return ShardInfo(self._path.name, self._size, len(self._rows), self._crc)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing(), naming("write", self._path):
            yield
