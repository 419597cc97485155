"""The work of one worker: one shard in all its variants, each source image read and decoded once."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import google_crc32c
import numpy as np

from imagesprint.errors import DataError, ImageError
from imagesprint.images.coding import encode_jpeg, is_plain_jpeg, open_image, shrink
from imagesprint.images.decoding import to_rgb
from imagesprint.prepare.parts import Parts, ShardResult
from imagesprint.prepare.plan import Shard
from imagesprint.prepare.sources import Sample, Source
from imagesprint.records.dataset import variant_size
from imagesprint.records.example import locate_bytes
from imagesprint.records.image_record import ENCODED, ImageRecord
from imagesprint.records.index import Index
from imagesprint.records.manifest import ClassInfo, ShardInfo
from imagesprint.records.tfrecord import frame

_TICK = 16  # images between two reports of progress


@dataclass(frozen=True)
class ShardJob:
    """All that a worker needs to write one shard."""

    source: Source
    shard: Shard
    classes: tuple[ClassInfo, ...]  # those of the shard's samples, by label
    parts: Parts
    quality: int


@dataclass(frozen=True)
class StoredImage:
    """An image as a variant stores it: a JPEG, its height and its width."""

    encoded: bytes
    height: int
    width: int


def write_shard(job: ShardJob, on_images: Callable[[int], None]) -> ShardResult:
    """Write the shard in every variant of the job, then its sidecar; return what the sidecar says.

    `on_images` is told now and then how many more source images are done. Raises DataError if the source changed
    meanwhile or the shard cannot be written.
    """
    variants, parts, name = job.parts.variants, job.parts, job.shard.name
    rejected = []
    with ExitStack() as stack:
        writers = {variant: stack.enter_context(_ShardWriter(parts, variant, name)) for variant in variants}
        for number, sample in enumerate(job.shard.samples, 1):
            data = job.source.read(sample)
            try:
                images = store(data, variants, job.quality)
            except ImageError as error:
                rejected.append({"split": job.shard.split, "file": sample.location, "reason": error.what})
            else:
                for variant, image in images.items():
                    writers[variant].add(_to_record(sample, job.classes[sample.label], image), sample.label)
            if number % _TICK == 0:
                on_images(_TICK)
        on_images(len(job.shard.samples) % _TICK)
        infos = {variant: writer.finish() for variant, writer in writers.items()}
        result = ShardResult(job.shard.split, name, infos, tuple(rejected))
        with writing(parts.root):
            parts.finish_shard(result)
    return result


def store(data: bytes, variants: tuple[str, ...], quality: int) -> dict[str, StoredImage]:
    """Return what each variant stores of a source file.

    An image that is no larger than a variant is stored as in "full": the original bytes of a JPEG in RGB or grey (one
    more encoding would only lose), anything else encoded. A larger one is shrunk from the original pixels and encoded.
    Raises ImageError with the reason if the file is rejected, which does not depend on the variants.
    """
    image = open_image(data)
    plain = is_plain_jpeg(image)
    rgb = to_rgb(image)
    unchanged = None
    stored = {}
    for variant in variants:
        size = variant_size(variant)
        if size < min(image.size):
            smaller = shrink(rgb, int(size))
            stored[variant] = StoredImage(encode_jpeg(smaller, quality), smaller.height, smaller.width)
            continue
        if unchanged is None:
            unchanged = StoredImage(data if plain else encode_jpeg(rgb, quality), image.height, image.width)
        stored[variant] = unchanged
    return stored


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn an OSError from writing below `root` into a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or root}: {error.strerror}",
            "see to its space and permissions, then give the same command again: it goes on where it stopped",
        ) from error


def _to_record(sample: Sample, info: ClassInfo, image: StoredImage) -> ImageRecord:
    return ImageRecord(
        encoded=image.encoded,
        height=image.height,
        width=image.width,
        label=sample.label,
        synset=info.synset,
        text=info.text,
        filename=sample.name,
        boxes=np.array(sample.boxes, np.float32).reshape(-1, 4),
    )


class _ShardWriter:
    """Writes one shard of one variant, and its rows of the index, under temporary names until `finish`.

    Every method raises DataError if the file system does not let it.
    """

    def __init__(self, parts: Parts, variant: str, name: str) -> None:
        self._root = parts.root
        self._path = parts.root / variant / name
        self._index_path = parts.index_path(variant, name)
        # A name of its own: a worker of a killed run may not have noticed yet that it is alone.
        self._temporary = parts.folder / f"{variant}-{name}.{os.getpid()}.tmp"
        with writing(self._root):
            self._file = self._temporary.open("wb")
        self._crc = 0
        self._size = 0
        self._rows: list[tuple[int, ...]] = []
        self._boxes: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with writing(self._root):
            try:
                self._file.close()
            finally:
                self._temporary.unlink(missing_ok=True)

    def add(self, record: ImageRecord, label: int) -> None:
        payload = record.to_example()
        framed = frame(payload)
        with writing(self._root):
            self._file.write(framed)
        start, length = locate_bytes(payload, ENCODED)
        self._rows.append((self._size, len(payload), start, length, label, record.height, record.width))
        self._boxes.append(record.boxes)
        self._crc = google_crc32c.extend(self._crc, framed)
        self._size += len(framed)

    def finish(self) -> ShardInfo:
        """Give the shard its name and write its part of the index."""
        with writing(self._root):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._temporary.replace(self._path)
            self._index().write(self._index_path)
        return ShardInfo(self._path.name, self._size, len(self._rows), self._crc)

    def _index(self) -> Index:
        columns = np.array(self._rows, np.int64).reshape(-1, 7).T
        offset, length, encoded_offset, encoded_length, label, height, width = columns
        return Index(
            shard_names=(self._path.name,),
            shard_sizes=np.array([self._size], np.int64),
            shard=np.zeros(len(self._rows), np.int32),
            offset=offset,
            length=length.astype(np.int32),
            encoded_offset=encoded_offset.astype(np.int32),
            encoded_length=encoded_length.astype(np.int32),
            label=label.astype(np.int32),
            height=height.astype(np.int32),
            width=width.astype(np.int32),
            box_start=np.cumsum([0] + [len(boxes) for boxes in self._boxes], dtype=np.int64),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *self._boxes]),
        )
