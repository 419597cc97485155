"""Which tensor lies at which depth, in networks of ours and by the names of others, and which a phase freezes."""

import pytest
import torch
from torch import nn

from imagesprint.errors import RecipeError
from imagesprint.model.building import build_model
from imagesprint.model.depths import depths, frozen_names, head_of
from imagesprint.recipes.recipe import Phase, Recipe

RECIPE = Recipe("test", (Phase((0, 1), (0.1, 0.1), "constant", 8, 8, 16),))


@pytest.mark.parametrize(("model", "stages"), [("resnet18", 4), ("resnet20", 3)])
def test_a_resnet_has_its_stages(model: str, stages: int) -> None:
    recipe = Recipe("test", RECIPE.phases, model=model)
    found = depths(build_model(recipe, 10).state_dict())
    assert {found[name] for name in ("conv1.weight", "bn1.running_mean")} == {0}
    for stage in range(1, stages + 1):
        assert {depth for name, depth in found.items() if name.startswith(f"layer{stage}.")} == {stage}
    assert found["fc.weight"] == found["fc.bias"] == stages + 1


# As timm 1.0 names the tensors of its models; the first of each kind
NAMES = {
    "efficientnet_lite0": (
        ["conv_stem.weight", "bn1.bias"],
        ["blocks.0.0.conv_dw.weight", "blocks.0.0.bn2.running_var"],
        ["blocks.1.0.conv_pw.weight", "blocks.1.1.bn3.weight"],
        ["blocks.2.0.conv_pwl.weight", "conv_head.weight", "bn2.weight"],
        ["classifier.weight", "classifier.bias"],
    ),
    "vit_small_patch16_224": (
        ["cls_token", "pos_embed", "patch_embed.proj.weight"],
        ["blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight"],
        ["blocks.1.attn.qkv.weight", "norm.weight"],
        ["head.weight"],
    ),
    "convnext_tiny": (
        ["stem.0.weight"],
        ["stages.0.blocks.0.conv_dw.weight"],
        ["stages.1.downsample.0.weight", "stages.1.blocks.0.gamma"],
        ["head.norm.weight", "head.fc.weight"],
    ),
    "regnety_008": (
        ["stem.conv.weight"],
        ["s1.b1.conv1.conv.weight"],
        ["s2.b1.se.fc1.weight", "s2.b2.conv3.bn.bias"],
        ["head.fc.weight"],
    ),
    "hrnet_w18_small": (
        ["conv1.weight", "bn2.bias"],
        ["layer1.0.conv1.weight", "transition1.0.0.weight"],
        ["stage2.0.branches.0.0.conv1.weight"],
        ["stage3.0.fuse_layers.0.1.0.weight", "final_layer.0.weight"],
        ["classifier.weight"],
    ),
    "a network without stages": (["features.weight"], ["fc.weight"]),
}


@pytest.mark.parametrize("by_depth", NAMES.values(), ids=NAMES)
def test_others_by_their_names(by_depth: tuple[list[str], ...]) -> None:
    expected = {name: depth for depth, names in enumerate(by_depth) for name in names}
    assert depths(expected) == expected


def test_a_head_by_another_name_is_refused() -> None:
    with pytest.raises(RecipeError, match="its head is not known") as caught:
        depths(["stages.0.weight", "last.weight"])
    assert "muon" in caught.value.hint


class Named(nn.Module):
    """A network of parameters by these names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            at: nn.Module = self
            for part in path:
                if part not in dict(at.named_children()):
                    at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.register_parameter(last, nn.Parameter(torch.zeros(1)))


def test_stem_and_stages_and_all_but_the_head() -> None:
    stem, stages, behind = ("conv_stem.a", "bn1.a"), ("blocks.0.0.a", "blocks.1.0.a", "blocks.1.1.a"), "conv_head.a"
    network = Named(*stem, *stages, behind, "classifier.a")
    assert frozen_names(network, "none") == set()
    assert frozen_names(network, "stages 1") == {*stem, stages[0]}
    assert frozen_names(network, "stages 2") == {*stem, *stages, behind}
    assert frozen_names(network, "backbone") == {*stem, *stages, behind}
    assert head_of(network) is network.classifier


def test_without_stages_there_is_a_backbone() -> None:
    network = Named("features.a", "fc.a")
    assert frozen_names(network, "backbone") == {"features.a"}
    with pytest.raises(RecipeError, match="the model has 0"):
        frozen_names(network, "stages 1")


def test_without_a_head_nothing_can_be_frozen() -> None:
    network = Named("layer1.a", "last.a")
    assert frozen_names(network, "none") == set()
    with pytest.raises(RecipeError, match="head"):
        frozen_names(network, "backbone")
