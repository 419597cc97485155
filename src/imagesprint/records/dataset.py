"""A prepared ROOT and its datasets: random access to encoded images, labels, sizes and boxes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from imagesprint.errors import DataError, RecordError, UsageError
from imagesprint.records.image_record import ImageRecord
from imagesprint.records.index import Index
from imagesprint.records.manifest import FILE_NAME, Manifest, split_name
from imagesprint.records.remote import client
from imagesprint.records.shard_files import Places, Shards, check_shard_size, see_verify
from imagesprint.records.tfrecord import file_crc, read_record
from imagesprint.storage.cache import CacheHold
from imagesprint.storage.url import Place, Url, parse_place

_T = TypeVar("_T")

PARTS = ".parts"  # the folder in which an unfinished `prepare` keeps its state
FULL = "full"  # the variant of the original size


def is_variant_name(name: str) -> bool:
    """Return whether `name` is "full" or a shorter side in pixels, such as "320"."""
    return name == FULL or (name.isascii() and name.isdecimal() and not name.startswith("0"))


def variant_size(name: str) -> float:
    """Return the shorter side that variant `name` is made for, in pixels: infinite for "full"."""
    return float("inf") if name == FULL else int(name)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError from looking at `path` and what lies in it into a DataError that names the place."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or path}: {error.strerror}", "see to its permissions, or name another place"
        ) from error


def open_root(place: str | Place) -> "Root":
    """Open a prepared ROOT: a folder with one folder a variant, or the URL of such a one in a store.

    Raises UsageError if there is no prepared dataset at `place`, DataError if it cannot be read, RecordError if one is
    damaged, StorageError where the store does not give it.
    """
    place = parse_place(place) if isinstance(place, str) else place
    if isinstance(place, Url):
        held = _by_size(client.find_variants(place))
        return Root(place, tuple(held), held)
    with reading(place):
        return Root(place, tuple(_by_size(dict.fromkeys(_find_variants(place)))))


def _by_size(variants: dict[str, _T]) -> dict[str, _T]:
    """The variants, the largest first."""
    return dict(sorted(variants.items(), key=lambda item: variant_size(item[0]), reverse=True))


def _find_variants(path: Path) -> list[str]:
    """Return the finished variants of a ROOT. Raises UsageError if there is none, OSError."""
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}", f"{_prepare(path)} makes it from a folder of images")
    if (path / FILE_NAME).is_file():
        raise one_variant(path)
    names = [entry.name for entry in path.iterdir() if is_variant_name(entry.name) and (entry / FILE_NAME).is_file()]
    if not names:
        raise not_finished(path) if (path / PARTS).exists() else no_root(path)
    return names


def _prepare(place: Place) -> str:
    return f"imagesprint prepare SOURCE {place}"


def one_variant(place: Place) -> UsageError:
    """Return the error that `place` is not a ROOT but one of its variants."""
    return UsageError(f"{place} is one variant of a prepared dataset", f"pass the folder that holds it: {place.parent}")


def not_finished(place: Place) -> UsageError:
    """Return the error that at `place` a `prepare` has begun and not ended."""
    return UsageError(
        f"{place} is not finished: its `imagesprint prepare` was interrupted, or parts are missing",
        "give the same prepare command again, without --part; it goes on where it stopped",
    )


def no_root(place: Place) -> UsageError:
    """Return the error that there is nothing at `place` to train on."""
    return UsageError(
        f"{place} holds no prepared dataset",
        f"{_prepare(place)} makes one from images, and `imagesprint index {place}` of TFRecords that lie there",
    )


def open_dataset(root: str | Place, variant: str, split: str) -> "Dataset":
    """Open one split ("train" or "validation") of one variant of a prepared ROOT.

    Raises UsageError if ROOT has no such variant, RecordError if what is there is damaged.
    """
    return open_root(root).dataset(variant, split)


class Root:
    """A prepared ROOT, which lies at `path`, a folder or a URL.

    `variants` are the names of its variants, the largest first; `classes` are those of the classes in the order of
    their labels, and `class_texts` the words that describe them. `held` are the variants' folders in the cache, for a
    URL.
    """

    def __init__(self, path: Place, variants: tuple[str, ...], held: Mapping[str, CacheHold] | None = None) -> None:
        self.path = path
        self.variants = variants
        self._held = held or {}
        classes = self.manifest(variants[0]).classes
        self.classes = tuple(entry.name for entry in classes)
        self.class_texts = tuple(entry.text for entry in classes)

    def manifest(self, variant: str) -> Manifest:
        """Return what dataset.json of a variant says. Raises RecordError if it is damaged."""
        if isinstance(self.path, Url):
            return Manifest.read(self._held[variant].folder, self.path / variant)
        return Manifest.read(self.path / variant)

    def dataset(self, variant: str, split: str) -> "Dataset":
        """Open one split of one variant. Raises UsageError if it is not there, RecordError if it is damaged."""
        if variant not in self.variants:
            raise UsageError(
                f"{self.path} has no variant {variant!r}; it has {', '.join(self.variants)}",
                f"imagesprint prepare SOURCE {self.path} --variants {variant} adds it",
            )
        return Dataset(self.path / variant, split_name(split), self._held.get(variant))

    def nearest(self, variant: str) -> str:
        """Return the variant to use where `variant` is wanted: it, else the nearest larger one, else the largest."""
        if not is_variant_name(variant):
            raise UsageError(f"{variant!r} is no variant", "variants are full or a shorter side in pixels: 320")
        larger = [name for name in self.variants if variant_size(name) >= variant_size(variant)]
        return larger[-1] if larger else self.variants[0]


class Dataset:
    """One split of one variant. A sample id is a row number of its index, the same in every variant of a ROOT.

    `labels` is int32 [N], from 0; `class_counts`, int64 [C], is how many there are of each; `sizes` is int32 [N, 2],
    height and width in pixels; `encoded_lengths`, int32 [N], is in bytes; `classes` names the labels; `image_format` is
    "jpeg" or "raw", as in `Manifest`; `fingerprint` is the same for the same classes and bytes. Any thread may read,
    also after a fork or in another process that got it pickled.

    `path` is the variant's folder or URL. Of a URL, `held` is the folder of the cache with its dataset.json (by default
    it is fetched), and `remote` has the records come; where all lie on this machine anyway it is None.
    """

    def __init__(self, path: Place, split: str, held: CacheHold | None = None) -> None:
        self.path = path
        self._held = client.hold_variant(path) if held is None and isinstance(path, Url) else held
        folder = self._held.folder if self._held is not None else Path(str(path))
        manifest = Manifest.read(folder, path)
        self.variant = manifest.variant
        self.image_format = manifest.image_format
        self.split = split
        self.classes = tuple(entry.name for entry in manifest.classes)
        self.fingerprint = manifest.fingerprint(split)
        self._first_label = manifest.first_label
        if isinstance(path, Url):
            client.hold_index(path, folder, manifest, split)
        self._index = _read_index(folder, path, manifest, split)
        self.remote = client.RemoteSplit(path, folder, split, self._index) if isinstance(path, Url) else None
        self._shards = Shards([path / name for name in self._index.shard_names], self.remote)

    def __len__(self) -> int:
        return len(self._index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.split, self.fingerprint)

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        return self._index.label

    @cached_property
    def class_counts(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int32]:
        return np.stack([self._index.height, self._index.width], axis=1)

    @property
    def encoded_lengths(self) -> npt.NDArray[np.int32]:
        return self._index.encoded_length

    def boxes(self, sample_id: int) -> npt.NDArray[np.float32]:
        """Return the boxes of a sample, float32 [K, 4] as ymin, xmin, ymax, xmax, each in 0..1; K may be 0."""
        start, end = self._index.box_start[sample_id], self._index.box_start[sample_id + 1]
        return self._index.boxes[start:end]

    def read(self, sample_id: int) -> memoryview:
        """Return the encoded image of a sample. Raises RecordError, naming shard and record, if it is damaged."""
        payload = self._read_payload(sample_id)
        start = int(self._index.encoded_offset[sample_id])
        return memoryview(payload)[start : start + int(self._index.encoded_length[sample_id])]

    def read_record(self, sample_id: int) -> ImageRecord:
        """Return the whole record of a sample. Raises RecordError if it is damaged.

        Its size is the index's: records that others wrote need not have one.
        """
        record = ImageRecord.from_example(self._read_payload(sample_id), self._first_label)
        return replace(record, height=int(self._index.height[sample_id]), width=int(self._index.width[sample_id]))

    def places(self, sample_ids: npt.NDArray[np.int64]) -> Places:
        """Return where the records of samples lie in files that stay open as long as the answer is held; those of a URL
        are waited for.

        Raises RecordError for a shard that cannot be opened, StorageError for what cannot be fetched.
        """
        numbers, offsets = self._index.shard[sample_ids], self._index.offset[sample_ids]
        streamed = self.remote.need(sample_ids) if self.remote is not None else None
        filed = numbers if streamed is None else np.delete(numbers, streamed.rows)
        shards = {number: self._shards.open(number) for number in set(filed.tolist())}
        by_number = np.empty(len(self._index.shard_names), np.int32)
        by_number[list(shards)] = [shard.fd for shard in shards.values()]
        fds, places = by_number[numbers], offsets
        if streamed is not None:
            places = offsets.copy()
            fds[streamed.rows], places[streamed.rows] = streamed.fd, streamed.offsets
        return Places(
            held=(shards, streamed),
            shards=self._shards.paths,
            numbers=numbers,
            in_shards=offsets,
            fds=fds,
            offsets=places,
            lengths=self._index.length[sample_ids].astype(np.int64),
            encoded_offsets=self._index.encoded_offset[sample_ids].astype(np.int64),
            encoded_lengths=self._index.encoded_length[sample_ids].astype(np.int64),
        )

    def expect(self, sample_ids: npt.NDArray[np.int64], anew: bool = False) -> None:
        """Have records come before they are needed, in this order, after those that were expected before or, `anew`, in
        their place. Nothing happens where they lie on this machine.
        """
        if self.remote is not None:
            self.remote.expect(sample_ids, anew)

    def fill(self) -> None:
        """Have all records come, beside those that are expected. Nothing happens where they lie on this machine."""
        if self.remote is not None:
            self.remote.fill()

    def renew(self, sample_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Fetch damaged records again; which of them are sound now: none where there is nothing to fetch them from."""
        return np.zeros(len(sample_ids), np.bool_) if self.remote is None else self.remote.renew(sample_ids)

    def describe(self, sample_id: int) -> str:
        """Return where a sample lies, for messages: shard, record and, where it can be read, the file name."""
        shard = int(self._index.shard[sample_id])
        record = sample_id - int(np.searchsorted(self._index.shard, shard))
        where = f"{self.path / self._index.shard_names[shard]}, record {record}"
        try:
            return f"{where}, {self.read_record(sample_id).filename}"
        except RecordError:
            return where

    def close(self) -> None:
        """Close the shards' files and the connection to the fetcher; a later read opens them again."""
        self._shards.close()
        if self.remote is not None:
            self.remote.close()

    def _read_payload(self, sample_id: int) -> bytes:
        if not 0 <= sample_id < len(self):
            raise IndexError(f"sample {sample_id} of {len(self)}")
        try:
            return self._read_once(sample_id)
        except RecordError:
            if not self.renew(np.array([sample_id])).all():
                raise
            return self._read_once(sample_id)

    def _read_once(self, sample_id: int) -> bytes:
        if self.remote is not None:
            return self.places(np.array([sample_id])).payload(0)
        number, offset = int(self._index.shard[sample_id]), int(self._index.offset[sample_id])
        shard, path = self._shards.open(number), self._shards.paths[number]  # held, so that it stays open
        return read_record(shard.fd, offset, int(self._index.length[sample_id]), path)


def _reopen(path: Place, split: str, fingerprint: str) -> Dataset:
    dataset = Dataset(path, split)
    if dataset.fingerprint != fingerprint:
        raise RecordError(f"{path} was prepared again while it was in use", "start again")
    return dataset


def _read_index(folder: Path, path: Place, manifest: Manifest, split: str) -> Index:
    """Return the index of a split, in `folder`, once it agrees with dataset.json and with the shards' sizes.

    `path` is the variant for messages: its URL, where `folder` is a copy without all of the shards.
    """
    info = manifest.splits[split]
    file, index_path = folder / info.index, path / info.index
    try:
        crc = file_crc(file)
    except OSError as error:
        raise RecordError(f"cannot read index {index_path}: {error.strerror}", see_verify(path)) from error
    if crc != info.index_crc32c:
        raise RecordError(f"index {index_path} does not match its checksum in {FILE_NAME}", see_verify(path))
    index = Index.read(file, index_path)
    if len(index) and int(index.label.max()) >= len(manifest.classes):
        raise RecordError(
            f"index {index_path} has label {index.label.max()}, but there are {len(manifest.classes)} classes",
            see_verify(path),
        )
    if isinstance(path, Path):
        for name, size in zip(index.shard_names, index.shard_sizes.tolist(), strict=True):
            check_shard_size(path / name, size)
    return index
