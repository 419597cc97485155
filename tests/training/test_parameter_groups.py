"""Weight decay, rates by depth, and the weights that Muon takes."""

from dataclasses import replace

import pytest
from torch import nn

from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.training.optimizer import build_optimizer, set_learning_rate
from imagesprint.training.parameter_groups import hidden_weights, lr_factors, parameter_groups

RECIPE = Recipe("test", (Phase((0, 1), (0.1, 0.1), "constant", 8, 8, 16),), model="resnet20", weight_decay=0.5)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_model(RECIPE, 10)


def test_without_factors_there_is_one_group_or_those_with_and_without_decay(network: nn.Module) -> None:
    (group,) = parameter_groups(RECIPE, network)
    assert group == {"params": list(network.parameters()), "weight_decay": 0.5, "lr_factor": 1.0}
    decayed, spared = parameter_groups(replace(RECIPE, decay_norm_and_bias=False), network)
    assert [group["weight_decay"] for group in (decayed, spared)] == [0.5, 0.0]
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    # Even where both have the same, so that a checkpoint's numbers stay
    assert len(parameter_groups(replace(RECIPE, decay_norm_and_bias=False, weight_decay=0.0), network)) == 2


def test_rates_fall_with_the_depth_below_the_head(network: nn.Module) -> None:
    factors = lr_factors(replace(RECIPE, backbone_lr=0.1, layer_decay=0.5), network)
    wanted = {"fc.": 1.0, "layer3.": 0.05, "layer2.": 0.025, "layer1.": 0.0125, "conv1.": 0.00625, "bn1.": 0.00625}
    for name, factor in factors.items():
        assert factor == pytest.approx(next(wanted[start] for start in wanted if name.startswith(start))), name
    assert set(lr_factors(replace(RECIPE, backbone_lr=0.1), network).values()) == {0.1, 1.0}
    assert set(lr_factors(RECIPE, network).values()) == {1.0}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "muon"])
def test_every_optimizer_goes_by_the_factors(name: str, network: nn.Module) -> None:
    recipe = replace(RECIPE, optimizer=name, layer_decay=0.5, rest_lr=3.0, decay_norm_and_bias=False)
    optimizer = build_optimizer(recipe, network)
    set_learning_rate(optimizer, 0.2)
    factors, hidden = lr_factors(recipe, network), hidden_weights(network)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    decays = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for key, parameter in network.named_parameters():
        rest = 3.0 if name == "muon" and key not in hidden else 1.0
        assert rates[parameter] == pytest.approx(0.2 * factors[key] * rest)
        assert decays[parameter] == (0.5 if parameter.ndim > 1 else 0.0)


def test_muon_takes_what_maps_features_to_features(network: nn.Module) -> None:
    hidden = hidden_weights(network)
    weights = [name for name, parameter in network.named_parameters() if parameter.ndim == 4]
    assert hidden == set(weights) - {"conv1.weight"}
    assert "layer2.0.downsample.0.weight" in hidden
    other = nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "attention": nn.Conv1d(1, 1, 3),
            "norm": nn.LayerNorm([8, 4]),
            "mlp": nn.Linear(8, 8),
            "head": nn.Linear(8, 5),
        }
    )
    assert hidden_weights(other) == {"mlp.weight"}
