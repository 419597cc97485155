from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imagesprint.checkpoints.weights import load_model
from imagesprint.errors import UsageError
from imagesprint.evaluating.views import PLAIN, View, chosen_views, recalibrate
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.batch_norm import batch_norms
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_dataset


def test_the_plain_view_comes_first_and_each_option_once() -> None:
    views = chosen_views("ema", 64, True, (32, 48), True)
    assert views[0] == View()
    assert len({view.name for view in views}) == len(views) == 7
    assert chosen_views() == PLAIN == (View(),)


def test_every_size_shows_the_same_part_of_the_image(tiny_recipe: Recipe) -> None:
    assert View().sizes(tiny_recipe) == (28, 24)
    assert View(size=48).sizes(tiny_recipe) == (56, 48)


def test_a_recipe_of_rectangles_is_judged_by_them_at_every_size(tiny_recipe: Recipe) -> None:
    rectangles = replace(tiny_recipe, eval_shape="rectangle")
    assert [View(rectangular=asked).shape(tiny_recipe) for asked in (False, True)] == ["square", "rectangle"]
    assert View(size=48).shape(rectangles) == View(flip=True).shape(rectangles) == "rectangle"


def test_weights_and_their_moving_average(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> None:
    both, plain = write_checkpoint(tmp_path / "a", 4, ema=True), write_checkpoint(tmp_path / "b", 4)

    def first_layer(path: Path, weights: str = "") -> torch.Tensor:
        weight: torch.Tensor = load_model(path, weights).network.state_dict()["conv1.weight"]
        return weight

    assert torch.equal(first_layer(both, "model"), 2 * first_layer(both, "ema"))
    assert torch.equal(first_layer(both), first_layer(both, "ema"))
    assert torch.equal(first_layer(plain), first_layer(both, "model"))
    with pytest.raises(UsageError, match="no moving average"):
        load_model(plain, "ema")


def test_flip_is_the_mean_of_both(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> None:
    model = load_model(write_checkpoint(tmp_path, 4))
    images = torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8)
    with torch.inference_mode():
        mirrored = torch.from_numpy(images.numpy()[:, :, ::-1].copy())
        assert torch.allclose(View(flip=True).logits(model)(images), (model(images) + model(mirrored)) / 2)


def test_recalibrated_statistics_are_those_of_the_images(
    photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    model = load_model(write_checkpoint(tmp_path, 4))
    training_set = open_dataset(photo_root, "32", "train")  # 70 images in batches of 8: every second, four in all
    recalibrate(model, training_set, 32)
    batches = [batch.images.clone() for batch in EvaluationLoader(training_set, 24, 28, 8)][:8:2]
    assert len(batches) == 4
    with torch.no_grad():
        inputs = [((batch.float() - model.mean) / model.std).permute(0, 3, 1, 2) for batch in batches]
        first = [model.network.conv1(one) for one in inputs]  # type: ignore[operator]
    norm = batch_norms(model)[0]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in first]).mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in first]).mean(0), rtol=1e-4)
    assert not norm.training
