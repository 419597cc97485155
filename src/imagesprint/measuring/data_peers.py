"""What others load images with, on the same work: Pillow and OpenCV in torch's DataLoader, tf.data, DALI, FFCV.

Each is given the encoded images in memory, with our crops and flips, and makes uint8 batches [N, S, S, 3] in RGB, as
our loader does from the shards. (FFCV reads a file of its own and draws its own crops, from the same distribution.)
None is imported before its process runs.
"""

import contextlib
import functools
import io
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.images.native_library import Encoded
from imagesprint.measuring.contest import Pass
from imagesprint.measuring.data_work import Batches, Work

Load = Callable[[Encoded, list[int], bool, int], NDArray[np.uint8]]  # image, box, flip, size


def installed_peers() -> dict[str, Callable[[Work], Pass]]:
    """Return the peers that can be imported here, by name."""
    return {name: peer for name, (module, peer) in _PEERS.items() if _is_installed(module)}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _data_loader(work: Work, load: Load) -> Pass:
    """torch's DataLoader with as many processes as `work` has threads; with one it works in this process."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    batches = work.batches()

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return work.images

        def __getitem__(self, index: int) -> Any:
            number, row = divmod(index, work.batch_size)
            batch = batches.held[number % len(batches.held)]
            box = batch.crops[row].tolist()
            return torch.from_numpy(load(batch.encoded[row], box, bool(batch.flips[row]), work.image_size))

    if work.threads == 1:
        loader = DataLoader(Images(), work.batch_size)
    else:  # fork: the images are shared, not copied
        loader = DataLoader(
            Images(),
            work.batch_size,
            num_workers=work.threads,
            persistent_workers=True,
            multiprocessing_context="fork",
        )

    def run() -> None:
        for _ in loader:
            pass

    return run


def _pillow(work: Work) -> Pass:
    from PIL import Image

    def load(data: Encoded, box: list[int], flip: bool, size: int) -> NDArray[np.uint8]:
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else Image.open(io.BytesIO(data)).convert("RGB")
        image = image.crop((box[0], box[1], box[2], box[3])).resize((size, size), Image.Resampling.BILINEAR)
        return np.array(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)

    return _data_loader(work, load)


def _opencv(work: Work) -> Pass:
    import cv2

    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def load(data: Encoded, box: list[int], flip: bool, size: int) -> NDArray[np.uint8]:
        is_raw = isinstance(data, np.ndarray)
        image: Any = data if is_raw else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        small = cv2.resize(image[box[1] : box[3], box[0] : box[2]], (size, size), interpolation=cv2.INTER_LINEAR)
        small = cv2.flip(small, 1) if flip else small
        return np.asarray(small if is_raw else cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)

    return _data_loader(work, load)


def _tf_data(work: Work) -> Pass:
    return _tensorflow(work, antialias=False)


def _tf_data_antialiased(work: Work) -> Pass:
    return _tensorflow(work, antialias=True)


def _tensorflow(work: Work, antialias: bool) -> Pass:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    tf.config.threading.set_inter_op_parallelism_threads(work.threads)
    batches = work.batches()
    _check_jpegs(batches)
    held = batches.held

    def load(data: Any, crop: Any, flip: Any) -> Any:
        window = tf.stack([crop[1], crop[0], crop[3] - crop[1], crop[2] - crop[0]])
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")
        image = tf.image.resize(image, [work.image_size, work.image_size], antialias=antialias)
        pixels = tf.cast(image + 0.5, tf.uint8)
        return tf.cond(flip, lambda: tf.reverse(pixels, [1]), lambda: pixels)

    encoded = [bytes(image) for batch in held for image in batch.encoded]
    crops = np.concatenate([batch.crops for batch in held])
    flips = np.concatenate([batch.flips for batch in held])
    images = tf.data.Dataset.from_tensor_slices((encoded, crops, flips)).repeat().take(work.images)
    images = images.map(load, num_parallel_calls=work.threads).batch(work.batch_size).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = work.threads
    images = images.with_options(options)

    def run() -> None:
        for _ in images:
            pass

    return run


def _dali(work: Work) -> Pass:
    from nvidia.dali import Pipeline, fn, types

    batches = work.batches()
    _check_jpegs(batches)

    class Source:
        def __iter__(self) -> Iterator[Any]:
            for batch in batches:
                starts = np.ascontiguousarray(batch.crops[:, [1, 0]])
                shapes = np.ascontiguousarray(batch.crops[:, [3, 2]]) - starts
                images = [np.frombuffer(image, np.uint8) for image in batch.encoded]
                yield images, list(starts), list(shapes), list(batch.flips.astype(np.int32))

    pipeline = Pipeline(work.batch_size, num_threads=work.threads, device_id=None, prefetch_queue_depth=2)
    with pipeline:
        data, start, shape, flip = fn.external_source(Source(), num_outputs=4, cycle="raise")
        images = fn.decoders.image_slice(data, start=start, shape=shape, axis_names="HW", device="cpu")
        size = work.image_size
        images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
        pipeline.set_outputs(fn.flip(images, horizontal=flip))
    pipeline.build()

    def run() -> None:
        # To the end of the source: batches begun ahead for another pass would cost the next program's time, not DALI's.
        with contextlib.suppress(StopIteration):
            while True:
                pipeline.run()
        pipeline.reset()

    return run


def _ffcv(work: Work) -> Pass:
    from ffcv.fields import RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.transforms import RandomHorizontalFlip
    from ffcv.writer import DatasetWriter

    class Stored(RGBImageField):  # type: ignore[misc]  # theirs would decode the JPEG and encode it again
        def encode(self, destination: Any, image: tuple[Encoded, int, int], malloc: Any) -> None:
            data, destination["height"], destination["width"] = image
            destination["mode"] = IMAGE_MODES["raw" if isinstance(data, np.ndarray) else "jpg"]
            pixels_or_bytes = np.frombuffer(data, np.uint8)
            destination["data_ptr"], storage = malloc(len(pixels_or_bytes))
            storage[:] = pixels_or_bytes

    folder = tempfile.TemporaryDirectory(prefix="imagesprint-ffcv-")
    file = os.path.join(folder.name, "images.beton")
    held = [(image, *_height_and_width(image)) for batch in work.batches().held for image in batch.encoded]
    with _forking():  # its writer's process: a class of here cannot be pickled
        DatasetWriter(file, {"image": Stored()}, num_workers=1).from_indexed_dataset([(image,) for image in held])
    size = (work.image_size, work.image_size)
    loader = Loader(
        file,
        work.batch_size,
        work.threads,
        os_cache=True,
        indices=np.resize(np.arange(len(held), dtype=np.uint64), work.images),
        pipelines={"image": [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()]},
        custom_fields={"image": RGBImageField},
    )
    # It allocates its buffers anew each epoch; a pass here is a piece of one long epoch, so it keeps them.
    loader.graph.allocate_memory = functools.cache(loader.graph.allocate_memory)

    def run() -> None:
        assert folder.name  # kept until this process ends
        for _ in loader:
            pass

    return run


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)


def _height_and_width(image: Encoded) -> tuple[int, int]:
    from PIL import Image

    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    with Image.open(io.BytesIO(image)) as opened:
        return opened.height, opened.width


def _check_jpegs(batches: Batches) -> None:
    if isinstance(batches.held[0].encoded[0], np.ndarray):
        raise NotImplementedError("it has no raw images")


_PEERS: Final[Mapping[str, tuple[str, Callable[[Work], Pass]]]] = {
    "pillow": ("PIL", _pillow),
    "opencv": ("cv2", _opencv),
    "tf.data": ("tensorflow", _tf_data),
    "tf.data, antialiased": ("tensorflow", _tf_data_antialiased),
    "dali": ("nvidia.dali", _dali),
    "ffcv": ("ffcv", _ffcv),
}
