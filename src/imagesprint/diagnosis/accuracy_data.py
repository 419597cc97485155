"""What the images of a run tell of its accuracy."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.diagnosis.check import Check, failure, ok, warning
from imagesprint.errors import DataError
from imagesprint.images.coding import open_image
from imagesprint.images.decoding import to_rgb
from imagesprint.loading.batch import read_encoded
from imagesprint.records.dataset import Dataset, Root
from imagesprint.report.run_record import RunRecord

_LOOKED_AT: Final = 128  # training images
_SHOWN: Final = 3  # names
_BLUER: Final = 10.0  # of 255: four standard errors of red minus blue over so many photos
_SAME_SIZE: Final = 0.95  # the share of images that makes a size the data's own
_SMALLEST_PHOTO: Final = 64  # pixels; smaller ones, such as digits, have empty margins of their own
_BAR: Final = 0.05  # of a side
_FLAT: Final = 3.0  # of 255: the standard deviation within a bar, after JPEG
_BARRED: Final = 0.3  # the share of images


def data_checks(record: RunRecord, root: Root) -> list[Check]:
    """What `root`, and a look at some of its training images, says of the run. Raises as `Root.dataset` does."""
    training = root.dataset(root.nearest(record.recipe.phases[-1].source), "train")
    validation = root.dataset(root.nearest(record.recipe.eval_source), "validation")
    images = _some(training)
    return [
        _same_classes(record, root, len(training)),
        _every_class(training, validation),
        _evaluated(record, validation),
        _letterboxing(training, images),
        _colours(record, images),
    ]


def _same_classes(record: RunRecord, root: Root, num_train: int) -> Check:
    name, trained = "data", record.checkpoint.classes or root.classes
    if trained != root.classes:
        at = next((i for i, pair in enumerate(zip(trained, root.classes, strict=False)) if pair[0] != pair[1]), None)
        where = f"class {at} is {trained[at]} there and {root.classes[at]} here" if at is not None else "one has more"
        found = f"the run knows {len(trained):,} classes, {root.path} has {len(root.classes):,}; {where}"
        return failure(name, found, "give the --data that it was trained on, or data prepared from the same classes")
    seen = record.checkpoint.num_train or num_train
    if seen != num_train:
        found = f"the run was trained on {seen:,} images, {root.path} has {num_train:,}"
        return warning(name, found, "give the --data that it was trained on")
    return ok(name, f"{len(trained):,} classes and {num_train:,} training images, as in the run")


def _every_class(training: Dataset, validation: Dataset) -> Check:
    count = len(training.classes)
    trained, judged = (np.bincount(split.labels, minlength=count) > 0 for split in (training, validation))
    found = f"{trained.sum():,} of {count:,} have training images, {judged.sum():,} validation images"
    if trained.all() and judged.all():
        return ok("classes", found)
    missing = np.flatnonzero(~trained | ~judged)
    names = ", ".join(f"{i} ({training.classes[i]})" for i in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    hint = "if the first or last is missing, labels may be off by one: imagesprint inspect ROOT --ids 0,1,2 shows some"
    return warning("classes", f"{found}; not class {names}{more}", hint)


def _evaluated(record: RunRecord, validation: Dataset) -> Check:
    name, there = "evaluated images", len(validation)
    if not record.evaluations:
        return ok(name, "nothing was evaluated yet")
    judged = record.evaluations[-1].num_images
    if judged == there:
        return ok(name, f"all {there:,}, each once")
    found = f"{judged:,}, but {validation.path} has {there:,} validation images"
    return failure(name, found, "evaluate again on this data: imagesprint evaluate RUN --data ROOT")


def _letterboxing(training: Dataset, images: Sequence[NDArray[np.uint8]]) -> Check:
    """Bars at two opposite edges of square images; where sizes differ, nobody has made them alike."""
    name = "letterboxing"
    height, width = (int(side) for side in np.median(training.sizes, axis=0))
    alike = float((training.sizes == (height, width)).all(axis=1).mean())
    if height != width or alike < _SAME_SIZE:
        return ok(name, "the images have shapes of their own")
    if height < _SMALLEST_PHOTO or not images:
        return ok(name, f"images of {height} × {width} px are too small to tell")
    barred = float(np.mean([_has_bars(image) for image in images]))
    if barred < _BARRED:
        return ok(name, f"all are {height} × {width} px, without bars: cut or squeezed to squares before")
    found = f"{barred:.0%} of {len(images)} images of {height} × {width} px have bars at two edges"
    hint = "prepare them from the originals: crops then hold no bars, and evaluation cuts its own square"
    return warning(name, found, hint)


def _has_bars(image: NDArray[np.uint8]) -> bool:
    """Whether one pair of opposite edges is flat, in one colour, and the other pair is not."""
    return _is_barred(image) != _is_barred(image.swapaxes(0, 1))


def _is_barred(image: NDArray[np.uint8]) -> bool:
    rows = max(1, round(_BAR * len(image)))
    edges = np.concatenate([image[:rows], image[-rows:]]).astype(np.float32)
    return float(edges.std(axis=(0, 1)).max()) < _FLAT


def _colours(record: RunRecord, images: Sequence[NDArray[np.uint8]]) -> Check:
    name, wanted = "colours", np.asarray(record.recipe.mean)
    if not images:
        return ok(name, "no image could be read")
    means = np.array([image.mean(axis=(0, 1)) for image in images])
    mean, spread = means.mean(axis=0), np.mean([image.std(axis=(0, 1)) for image in images], axis=0)
    words = [" ".join(f"{value:.0f}" for value in colour) for colour in (mean, wanted)]
    found = f"red, green and blue are {words[0]} on average in {len(images)} images; the recipe takes off {words[1]}"
    tilt, supposed = mean[0] - mean[2], wanted[0] - wanted[2]
    if abs(tilt) > _BLUER and tilt * supposed < 0:
        hint = "look whether red is red: imagesprint inspect ROOT --ids 0,1,2; OpenCV writes and reads blue first"
        return warning(name, f"{found}: the order may be reversed", hint)
    if (abs(mean - wanted) > spread).any():
        hint = f"train anew with --set mean={','.join(f'{value:.0f}' for value in mean)}"
        return warning(name, f"{found}: that centres nothing", hint)
    return ok(name, found)


def _some(dataset: Dataset) -> list[NDArray[np.uint8]]:
    """Images that lie evenly over the split, uint8 [H, W, 3]; those that are damaged are left out."""
    images = []
    sample_ids = np.unique(np.linspace(0, len(dataset) - 1, _LOOKED_AT).astype(np.int64))
    dataset.expect(sample_ids, anew=True)
    for sample_id in sample_ids.tolist():
        try:
            encoded = read_encoded(dataset, sample_id)
            image = encoded if isinstance(encoded, np.ndarray) else np.asarray(to_rgb(open_image(bytes(encoded))))
        except DataError:  # `verify` lists them
            continue
        images.append(image)
    return images
