"""Pictures for the report: small JPEGs inside the page."""

import base64
import io
from html import escape

from PIL import Image

from imagesprint.evaluating.details import Mistake
from imagesprint.evaluating.results_kept import KeptData
from imagesprint.images.decoding import open_rgb
from imagesprint.loading.load import read_encoded
from imagesprint.measuring.reporting.page import Markup
from imagesprint.records.dataset import Dataset, Root

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
    return Markup(f"<div class=pictures>{''.join(_figure(dataset, mistake) for mistake in mistakes[:SHOWN])}</div>")


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
