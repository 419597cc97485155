import io
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.console import Console
from imagesprint.errors import CheckpointError
from imagesprint.evaluating.evaluation import blank_table, judge, read_table
from imagesprint.images.decoders import VARIABLE
from imagesprint.inference.formats import describe
from imagesprint.inference.opening import open_model, open_trained
from imagesprint.inference.prediction import ImageReader, predict
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_dataset


@pytest.mark.parametrize("shape", ["square", "rectangle"])
def test_pixels_are_those_that_evaluation_sees(photo_root: Path, tiny_recipe: Recipe, shape: str) -> None:
    dataset = open_dataset(photo_root, "full", "validation")
    sizes = (tiny_recipe.eval_image_size, tiny_recipe.eval_resize)
    with ImageReader(*sizes, threads=2, shape=shape) as reader:
        pixels, failures = reader.decode([bytes(dataset.read(sample)) for sample in range(len(dataset))])
    assert failures == {}
    with EvaluationLoader(dataset, *sizes, 4, shape=shape) as loader:
        seen = {
            int(sample): image.numpy().copy()
            for batch in loader
            for sample, image in zip(batch.sample_ids[batch.mask], batch.images, strict=False)
        }
    assert len(seen) == len(pixels)
    assert all(np.array_equal(pixels[sample], image) for sample, image in seen.items())
    assert (len({image.shape for image in pixels}) > 2) == (shape == "rectangle")


def test_evaluate_and_predict_agree_on_rectangles(photo_root: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe, dataset = replace(tiny_recipe, eval_shape="rectangle"), open_dataset(photo_root, "32", "validation")
    model = TrainedModel(build_model(recipe, 2), recipe, dataset.classes, 70).eval()
    table = blank_table(len(dataset), torch.device("cpu"))
    judge(model, EvaluationLoader(dataset, 24, 28, 4, shape="rectangle"), table)
    expected = read_table(table)
    files = [tmp_path / f"{sample}.jpg" for sample in range(len(dataset))]
    for sample, file in enumerate(files):
        file.write_bytes(dataset.read(sample))
    found = predict(open_trained(model, tmp_path, tmp_path, "cpu"), files, 1, Console.silent())
    assert expected is not None
    assert [one.top[0].label for one in found] == expected.predicted.tolist()
    np.testing.assert_allclose([one.top[0].probability for one in found], expected.probability, rtol=1e-5)
    assert "the centre, whose shorter side" in str(describe(model)["input"])


@pytest.mark.parametrize("decoder", ["", "pillow"])
def test_bad_rows_have_errors_and_the_others_their_pixels(
    decoder: str, photos: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, decoder)
    good = (photos / "val/china/00.jpg").read_bytes()
    png = io.BytesIO()
    Image.open(io.BytesIO(good)).save(png, "PNG")
    with ImageReader(tiny_recipe.eval_image_size, tiny_recipe.eval_resize, threads=2) as reader:
        alone, _ = reader.decode([good])
        pixels, failures = reader.decode([b"", good, b"some text", good[:-150], png.getvalue()])
        assert reader.decode([]) == ([], {})
    assert sorted(failures) == [0, 2, 3]
    assert "begins with b'some text'" in failures[2].what
    assert failures[3].what.startswith("damaged: ")
    assert np.array_equal(pixels[1], alone[0])
    assert np.abs(pixels[4].astype(int) - alone[0]).max() <= 4  # Pillow's, which rounds otherwise


AGREEMENT = Path(__file__).parents[2] / "benchmarks" / "agreement.py"


def test_order_errors_and_probabilities(digit_images: Path, digit_run: Path, tmp_path: Path) -> None:
    model = open_model(digit_run, "torch", "cpu", Console.silent())
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    images = sorted(digit_images.glob("*/*.jpg"))[:40]  # more than a batch
    found = predict(model, [images[0], text, tmp_path, tmp_path / "gone.jpg", *images[1:]], 5, Console(quiet=True))
    assert [one.image for one in found] == [images[0], text, tmp_path, tmp_path / "gone.jpg", *images[1:]]
    assert [bool(one.error) for one in found[:5]] == [False, True, True, True, False]
    assert found[3].error == "No such file or directory"
    alone = predict(model, [images[39]], 2, Console(quiet=True))[0]
    for one in (found[0], *found[4:]):
        assert [candidate.name for candidate in one.top] == [
            model.class_texts[candidate.label] for candidate in one.top
        ]
        assert sum(candidate.probability for candidate in one.top) == pytest.approx(1)  # of all three classes
    assert [candidate.label for candidate in alone.top] == [candidate.label for candidate in found[-1].top[:2]]
    assert alone.top[0].probability == pytest.approx(found[-1].top[0].probability, abs=1e-5)
    assert alone.top[0].probability > alone.top[1].probability


def test_names_are_the_words_of_the_classes_where_the_checkpoint_has_them(
    digit_images: Path, digit_checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(digit_checkpoint, weights_only=True)
    assert content["class_texts"] == content["classes"] == ["one", "two", "zero"]
    content["class_texts"] = ["uno", "due", "nulla"]
    torch.save(content, tmp_path / "words.pt")
    del content["class_texts"]
    torch.save(content, tmp_path / "before.pt")
    image = sorted(digit_images.glob("*/*.jpg"))[:1]
    for name, known in (("words", {"uno", "due", "nulla"}), ("before", {"one", "two", "zero"})):
        model = open_model(tmp_path / f"{name}.pt", "torch", "cpu", Console.silent())
        (prediction,) = predict(model, image, 3, Console(quiet=True))
        assert {candidate.name for candidate in prediction.top} == known


def test_a_model_that_answers_no_numbers_is_an_error(
    digit_images: Path, digit_checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(digit_checkpoint, weights_only=True)
    content["model"]["bn1.running_var"].fill_(-1.0)
    torch.save(content, tmp_path / "wrong.pt")
    model = open_model(tmp_path / "wrong.pt", "torch", "cpu", Console.silent())
    with pytest.raises(CheckpointError, match=f"{tmp_path}/wrong.pt gives no numbers for an image"):
        predict(model, [next(digit_images.glob("*/*.jpg"))], 1, Console.silent())


def test_evaluate_predict_and_onnx_agree_on_every_validation_image(
    digit_images: Path,
    digit_root: Path,
    digit_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [AGREEMENT, digit_run, digit_root, "--originals", digit_images]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(AGREEMENT), run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    rows = re.findall(r"^(predict|onnx) +(\d+) +(\d+) +(\S+)$", said, re.M)
    assert [row[0] for row in rows] == ["predict", "onnx"]
    for _, images, same, difference in rows:
        assert int(images) == int(same) == 39
        assert float(difference) < 1e-4
    accuracies = re.findall(r"(?:evaluate|predict) ([\d.]+) %", said)
    assert accuracies[0] == accuracies[1]
    assert float(accuracies[0]) > 60  # of three classes: it has learnt something, so agreement means something
    assert "200 originals and variant full: 200 with the same top-1; probabilities differ by 0.0000" in said
