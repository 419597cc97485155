"""What others load images with, for benchmarks/data.py: OpenCV, simplejpeg and torchvision in torch's DataLoader,
tf.data, DALI, FFCV. None is a dependency; those that cannot be imported are left out.

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

from imagesprint.diagnosis.contest import Pass
from imagesprint.diagnosis.data_programs import Batches, LoadingWork, in_data_loader, pillow
from imagesprint.images.native import Encoded

# As `bench data` names the versions of what it measured.
PACKAGES: Final = (
    *("opencv-python-headless", "opencv-python", "simplejpeg", "torchvision", "ffcv"),
    *("tensorflow", "tensorflow-cpu", "nvidia-dali-cuda120", "nvidia-dali-cuda130"),
)


def installed_loaders() -> dict[str, Callable[[LoadingWork], Pass]]:
    """Return Pillow, and the others that are installed here, by name."""
    return {name: loader for name, (module, loader) in _LOADERS.items() if _is_installed(module)}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _opencv(work: LoadingWork) -> Pass:
    import cv2

    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def load(data: Encoded, box: list[int], flip: bool, size: int) -> NDArray[np.uint8]:
        is_raw = isinstance(data, np.ndarray)
        image: Any = data if is_raw else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        small = cv2.resize(image[box[1] : box[3], box[0] : box[2]], (size, size), interpolation=cv2.INTER_LINEAR)
        small = cv2.flip(small, 1) if flip else small
        return np.asarray(small if is_raw else cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)

    return in_data_loader(work, load)


def _simplejpeg(work: LoadingWork) -> Pass:
    import simplejpeg
    from PIL import Image

    def load(data: Encoded, box: list[int], flip: bool, size: int) -> NDArray[np.uint8]:
        # The arguments are its defaults but for the DCT and the upsampling, which are libjpeg's exact ones.
        decoded = data if isinstance(data, np.ndarray) else simplejpeg.decode_jpeg(data, fastdct=False)
        window = Image.fromarray(decoded[box[1] : box[3], box[0] : box[2]])
        small = np.asarray(window.resize((size, size), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(small[:, ::-1] if flip else small)

    return in_data_loader(work, load)


def _torchvision(work: LoadingWork) -> Pass:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import resized_crop

    def load(data: Encoded, box: list[int], flip: bool, size: int) -> NDArray[np.uint8]:
        if isinstance(data, np.ndarray):
            image = torch.from_numpy(data).permute(2, 0, 1)
        else:
            image = decode_jpeg(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), ImageReadMode.RGB)
        left, top, right, bottom = box
        small = resized_crop(image, top, left, bottom - top, right - left, [size, size], antialias=True)
        pixels: NDArray[np.uint8] = (small.flip(-1) if flip else small).permute(1, 2, 0).contiguous().numpy()
        return pixels

    return in_data_loader(work, load)


def _tf_data(work: LoadingWork) -> Pass:
    return _tensorflow(work, antialias=False)


def _tf_data_antialiased(work: LoadingWork) -> Pass:
    return _tensorflow(work, antialias=True)


def _tensorflow(work: LoadingWork, antialias: bool) -> Pass:
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


def _dali(work: LoadingWork) -> Pass:
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


def _ffcv(work: LoadingWork) -> Pass:
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


_LOADERS: Final[Mapping[str, tuple[str, Callable[[LoadingWork], Pass]]]] = {
    "pillow": ("PIL", pillow),
    "opencv": ("cv2", _opencv),
    "simplejpeg": ("simplejpeg", _simplejpeg),
    "torchvision": ("torchvision", _torchvision),
    "tf.data": ("tensorflow", _tf_data),
    "tf.data, antialiased": ("tensorflow", _tf_data_antialiased),
    "dali": ("nvidia.dali", _dali),
    "ffcv": ("ffcv", _ffcv),
}
