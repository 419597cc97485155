"""Which parameters a phase freezes, by their names."""

import pytest
import torch
from torch import nn

from imagesprint.errors import RecipeError
from imagesprint.model.freezing import frozen_names, head_of


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
