"""Batch norm's statistics measured anew."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from imagesprint.console import Console
from imagesprint.errors import RecipeError
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import Loader
from imagesprint.model.batch_norm import batch_norms
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import open_root
from imagesprint.runs.ranks import Ranks
from imagesprint.training.recalibration import recalibrate, recalibrate_by_what_follows
from imagesprint.training.state import TrainingState
from imagesprint.training.training import TrainingOptions, train

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
RECIPE = Recipe(
    name="test",
    model="resnet20",
    precision="fp64",
    phases=(Phase((0, 1), (0.1, 0.1), "constant", 24, 8, 16),),
)


def trained(recipe: Recipe) -> TrainingState:
    """A state whose moving average, if there is one, and statistics are not those that it began with."""
    state = TrainingState(recipe, tuple("abcdefg"), ALONE.device)
    generator = torch.Generator().manual_seed(0)
    for tensor in (*state.network.parameters(), *state.average.values()):
        tensor.data += 0.01 * torch.rand(tensor.shape, dtype=tensor.dtype, generator=generator)
    return state


def plain_means(recipe: Recipe, weights: dict[str, torch.Tensor], given: list[Batch]) -> list[torch.Tensor]:
    """Mean and variance of each norm, over micro-batches of float64 images that torch's own batch norms see."""
    network = TrainingState(recipe, tuple("abcdefg"), ALONE.device).network
    network.load_state_dict(weights)
    norms, seen = batch_norms(network), list[list[torch.Tensor]]()
    mean, std = torch.tensor(recipe.mean, dtype=torch.float64), torch.tensor(recipe.std, dtype=torch.float64)
    inputs: dict[nn.Module, torch.Tensor] = {}
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0].detach()}))
    for batch in given:
        network(((batch.images.double() - mean) / std).permute(0, 3, 1, 2))
        rows = [inputs[norm].transpose(0, 1).flatten(1) for norm in norms]
        seen.append([figure for row in rows for figure in (row.mean(1), row.var(1))])
    return [torch.stack(figures).mean(0) for figures in zip(*seen, strict=True)]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_statistics_are_the_plain_mean_of_the_weights_that_are_judged(
    batches: Callable[[int], list[Batch]], ema_decay: float
) -> None:
    recipe, given = replace(RECIPE, ema_decay=ema_decay), batches(6)
    state = trained(recipe)
    own = {key: value.clone() for key, value in state.network.state_dict().items()}
    judged = {key: value.clone() for key, value in state.evaluated_weights().items()}
    recalibrate(state, given, ALONE)
    assert state.recalibrated
    after = state.evaluated_weights()
    found = [value for key, value in after.items() if "running" in key]
    for ours, expected in zip(found, plain_means(recipe, judged, given), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)
    assert all(torch.equal(after[key], value) for key, value in judged.items() if "running" not in key)
    if ema_decay:
        assert all(torch.equal(state.network.state_dict()[key], value) for key, value in own.items())


def test_norms_that_stand_still_keep_their_statistics(batches: Callable[[int], list[Batch]]) -> None:
    state = trained(RECIPE)
    still, *others = batch_norms(state.network)
    still.eval()
    assert still.running_mean is not None
    before = still.running_mean.clone()
    recalibrate(state, batches(2), ALONE)
    assert torch.equal(still.running_mean, before)
    assert all(norm.running_mean is not None and norm.running_mean.any() for norm in others)


def test_the_images_are_those_of_the_steps_that_would_follow(photo_root: Path, tiny_recipe: Recipe) -> None:
    """Two steps before the end of its first phase patience ended the run: that phase goes on beyond its end."""
    root, recipe = open_root(photo_root), replace(tiny_recipe, recalibrate_bn=5, augment=("mixup 0.2",))
    ended, other = trained(recipe), trained(recipe)
    ended.step = 14
    recalibrate_by_what_follows(root, ended, Schedule(recipe, 70), ALONE)
    longer = replace(recipe, phases=(replace(recipe.phases[0], epochs=(0, 5)),))
    with Loader(root, longer, start_step=14, end_step=19) as loader:
        recalibrate(other, loader, ALONE)
    found, before = ended.network.state_dict(), trained(recipe).network.state_dict()
    for key, value in other.network.state_dict().items():
        assert torch.equal(found[key], value), key
    assert not torch.equal(found["bn1.running_mean"], before["bn1.running_mean"])


def test_an_evaluation_of_it_that_a_kill_prevented_is_made_up_for(
    photo_root: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """Without a learning rate nothing gets better: patience ends the run after the second epoch."""
    phase = replace(tiny_recipe.phases[0], lr=(0.0, 0.0))
    recipe = replace(tiny_recipe, phases=(phase,), eval_every=1, patience=1, recalibrate_bn=2)
    words = recipe, open_root(photo_root).path, tmp_path / "run", TrainingOptions(device="cpu"), Console.silent()
    train(*words)
    file = tmp_path / "run/evaluations.jsonl"
    rows = file.read_text().splitlines(keepends=True)
    assert [json.loads(row)["step"] for row in rows] == [4, 8, 8]
    file.write_text("".join(rows[:-1]))
    (tmp_path / "run/result.json").unlink()
    assert train(*words)["loss"] == json.loads(rows[-1])["loss"] != json.loads(rows[-2])["loss"]
    assert file.read_text() == "".join(rows)


@pytest.mark.parametrize(("freeze", "freeze_norm"), [("backbone", "frozen"), ("stages 3", "frozen"), ("none", "all")])
def test_where_all_statistics_stand_still_in_the_end_it_is_refused_before(freeze: str, freeze_norm: str) -> None:
    last = replace(RECIPE.phases[0], epochs=(1, 2), freeze=freeze)
    recipe = replace(RECIPE, phases=(*RECIPE.phases, last), freeze_norm=freeze_norm, recalibrate_bn=5)
    with pytest.raises(RecipeError, match="5 steps measure nothing: the last phase freezes them all"):
        trained(recipe)
    trained(replace(recipe, recalibrate_bn=0))
    if freeze_norm == "frozen":
        trained(replace(recipe, freeze_norm="none"))
