"""Images in the report and in the contact sheet of `inspect`."""

import base64
import io
import textwrap
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from imagesprint.console import printable
from imagesprint.errors import DataError, UsageError
from imagesprint.evaluating.results import KeptData, Mistake
from imagesprint.files import write_atomically
from imagesprint.images.coding import open_image
from imagesprint.images.decoding import open_rgb, to_rgb
from imagesprint.loading.batch import read_encoded
from imagesprint.records.dataset import Dataset, Root
from imagesprint.report.page import Markup

if TYPE_CHECKING:
    from imagesprint.training.transforms import Seen  # torch: not for a report

TILE = 160  # pixels a side that an image is shrunk to
_CAPTION = 28  # pixels below it, for two lines
_LONGEST_CAPTION = 26  # characters that fit
_MAX_COLUMNS = 8
_LEAST_SHARE = 0.005  # of a class in a mixed image: less would be shown as 0%


def write_contact_sheet(dataset: Dataset, sample_ids: Sequence[int], path: Path, seen: "Sequence[Seen]" = ()) -> None:
    """Write the samples to `path` as one PNG, in the order given; beside each what the network saw, where it is given.

    One that is damaged shows why in place of its image. Raises UsageError for an id that the dataset does not have, or
    where `path` cannot be written.
    """
    for sample_id in sample_ids:
        if not 0 <= sample_id < len(dataset):
            raise UsageError(
                f"there is no sample {sample_id} in {dataset.path}, {dataset.split}",
                f"sample ids are 0 to {len(dataset) - 1:,}",
            )
    dataset.expect(np.array(sample_ids, np.int64), anew=True)
    tiles = 2 if seen else 1
    columns = min(_MAX_COLUMNS // tiles, len(sample_ids))
    rows = -(-len(sample_ids) // columns)
    sheet = Image.new("RGB", (columns * tiles * TILE, rows * (TILE + _CAPTION)), "white")
    for number, sample_id in enumerate(sample_ids):
        left, top = number % columns * tiles * TILE, number // columns * (TILE + _CAPTION)
        _draw(sheet, dataset, sample_id, left, top)
        if seen:
            _draw_seen(sheet, dataset, seen[number], left + TILE, top)
    try:
        write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    except OSError as error:
        raise UsageError(f"--output {path} cannot be written: {error.strerror}", "choose another file") from error


def _draw(sheet: Image.Image, dataset: Dataset, sample_id: int, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    name = printable(dataset.classes[int(dataset.labels[sample_id])])
    _write_below(sheet, [str(sample_id), name], left, top)
    try:
        encoded = read_encoded(dataset, sample_id)
        image = Image.fromarray(encoded) if isinstance(encoded, np.ndarray) else to_rgb(open_image(bytes(encoded)))
    except DataError as error:
        why = textwrap.fill(printable(error.what), _LONGEST_CAPTION)
        draw.multiline_text((left + 2, top + 2), why, fill="red")
        return
    image.thumbnail((TILE, TILE))
    sheet.paste(image, (left, top))


def _draw_seen(sheet: Image.Image, dataset: Dataset, seen: "Seen", left: int, top: int) -> None:
    """What the network saw, as large as a tile; below it the two classes of most weight, if it has several."""
    sheet.paste(Image.fromarray(seen.image).resize((TILE, TILE), Image.Resampling.BILINEAR), (left, top))
    shares = [(label, share) for label, share in seen.targets[:2] if share >= _LEAST_SHARE]
    lines = [f"{share:.0%} {printable(dataset.classes[label])}" for label, share in shares]
    _write_below(sheet, lines if len(lines) > 1 else ["as the network saw it"], left, top)


def _write_below(sheet: Image.Image, lines: list[str], left: int, top: int) -> None:
    caption = "\n".join(line[:_LONGEST_CAPTION] for line in lines)
    ImageDraw.Draw(sheet).multiline_text((left + 2, top + TILE), caption, fill="black", spacing=1)


SIDE = 224  # pixels of the longer side: sharp on screens of two pixels a point
SHOWN = 12


def validation_images(root: Root, data: KeptData) -> Dataset | None:
    """The images that a result of RUN/evaluated was made from; None where `root` holds others."""
    if data["variant"] not in root.variants:
        return None
    dataset = root.dataset(data["variant"], "validation")
    return dataset if dataset.fingerprint == data["fingerprint"] else None


def show_mistakes(dataset: Dataset, mistakes: list[Mistake]) -> Markup:
    """The surest mistakes with their pictures. Raises DataError where one cannot be read."""
    shown = mistakes[:SHOWN]
    dataset.expect(np.array([mistake["sample_id"] for mistake in shown], np.int64), anew=True)
    return Markup(f"<div class=pictures>{''.join(_figure(dataset, mistake) for mistake in shown)}</div>")


def _figure(dataset: Dataset, mistake: Mistake) -> str:
    name, taken_for = escape(mistake["class"]), escape(mistake["taken_for"])
    alt = f"an image of {name} that was taken for {taken_for}"
    return (
        f'<figure><img alt="{alt}" src="{_data_url(dataset, mistake["sample_id"])}"><figcaption>{name}, taken for '
        f"<b>{taken_for}</b>, {mistake['probability']:.0%} sure <small>(sample {mistake['sample_id']})</small>"
        "</figcaption></figure>"
    )


def _data_url(dataset: Dataset, sample_id: int) -> str:
    image = open_rgb(read_encoded(dataset, sample_id))
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
