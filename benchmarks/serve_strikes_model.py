"""`imagesprint serve` with a model that raises where POISON is in its batch: for `serve_strikes.py`.

python benchmarks/serve_strikes_model.py serve MODEL …
"""

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagesprint.cli.main import main
from imagesprint.inference import opening

_COLOUR: Final = (1, 2, 3)


def _poison() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (100, 100), _COLOUR).save(file, "PNG")
    return file.getvalue()


POISON: Final = _poison()
_open_model = opening.open_model


def open_failing(*words: Any, **named: Any) -> opening.OpenModel:
    """As `open_model`."""
    model = _open_model(*words, **named)

    def infer(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        pixels = np.stack(list(images))
        if (pixels == _COLOUR).all((1, 2, 3)).any():
            raise RuntimeError("the model's run dies")
        return model.infer(pixels)

    return replace(model, infer=infer)


if __name__ == "__main__":
    opening.open_model = open_failing
    raise SystemExit(main())
