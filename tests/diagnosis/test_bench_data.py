"""All that `bench data` compares has the same work. The whole is tested with the verb."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from imagesprint.console import printable
from imagesprint.diagnosis.data_programs import LoadingWork, TimedDecoder
from imagesprint.diagnosis.plots import plain, save_figure
from imagesprint.images.decoders import Pool
from imagesprint.images.decoding import DecodeRequest, PillowDecoder
from imagesprint.images.native import is_available


def test_others_get_the_loaders_images_and_crops(photo_root: Path) -> None:
    work = LoadingWork(photo_root, "full", 24, 32, 4, 1)
    decoder, out = PillowDecoder(1), np.zeros((32, 24, 24, 3), np.uint8)
    found = 0
    for batch, expected in zip(work.batches(), work.loader(), strict=True):
        assert not decoder.load(DecodeRequest(batch.encoded, batch.crops, batch.flips, True, out))
        np.testing.assert_allclose(out, expected.images.numpy(), rtol=0, atol=4)
        found += len(batch.encoded)
    assert found == work.images == 128


@pytest.mark.skipif(not is_available(), reason="the native decoder is not built")
def test_the_loader_with_clocks_has_the_decoder_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen, portable in (("native", False), ("native-portable", True)):
        monkeypatch.setenv("IMAGESPRINT_DECODER", chosen)
        assert TimedDecoder()._pool.resizer == Pool(1, portable).resizer


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [r"$\frac{", "$x$ and $y$", r"a\$b$", "\x1b[2J\n训练\ud800"])
def test_names_in_a_figure_are_text(tmp_path: Path, name: str) -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2], label=plain(name))
    label = axes.legend().get_texts()[0]
    save_figure(figure, tmp_path / "a.png", name)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
    for shown in (*figure.texts, label):
        preprocess: Any = shown._preprocess_math  # type: ignore[attr-defined]
        assert preprocess(shown.get_text()) == (printable(name), False)
