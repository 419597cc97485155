import pytest
import torch

from imagesprint.errors import RecipeError
from imagesprint.model.batch_norm import BatchNorm2d, batch_norms
from imagesprint.model.building import MODELS, build_model, normalize
from imagesprint.model.resnet import ARCHITECTURES, BasicBlock, Bottleneck
from imagesprint.recipes.recipe import MODEL_NAMES, Phase, Recipe

PHASE = Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 32)


def recipe(**changes: object) -> Recipe:
    return Recipe(name="test", phases=(PHASE,), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # torchvision's counts for 1000 classes
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(recipe(model=name), 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_names_are_those_of_torchvision() -> None:
    keys = build_model(recipe(model="resnet50"), 10).state_dict().keys()
    expected = {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "layer4.2.conv3.weight",
        "layer4.2.bn3.bias",
        "fc.weight",
        "fc.bias",
    }
    assert expected <= keys
    assert len(keys) == 320
    assert not any("batch_mean" in key or "kernel" in key for key in keys)


@pytest.mark.parametrize(("strides", "first", "second"), [("v1", (2, 2), (1, 1)), ("v1.5", (1, 1), (2, 2))])
def test_where_a_bottleneck_strides(strides: str, first: tuple[int, int], second: tuple[int, int]) -> None:
    block = build_model(recipe(strides=strides), 2).get_submodule("layer2.0")
    assert isinstance(block, Bottleneck)
    assert (block.conv1.stride, block.conv2.stride) == (first, second)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("blurpool", [False, True])
def test_logits_and_gradients_flow_at_odd_sizes(name: str, blurpool: bool) -> None:
    if name in ("resnet101", "resnet152") and blurpool:
        pytest.skip("the same blocks as resnet50")
    model = build_model(recipe(model=name, blurpool=blurpool, zero_init=False), 7)
    logits = model(torch.randn(2, 3, 45, 37, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_zero_init_makes_each_block_the_identity_at_first() -> None:
    model = build_model(recipe(model="resnet18", zero_init=True), 2)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    assert all(block.last_norm.weight.abs().sum() == 0 for block in blocks)
    block = model.get_submodule("layer1.1")
    x = torch.rand(2, 64, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_weights_follow_from_the_seed_and_are_channels_last() -> None:
    first, again, other = (build_model(recipe(model="resnet18", seed=seed), 2) for seed in (1, 1, 2))
    weights = [model.get_parameter("layer1.0.conv1.weight") for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].is_contiguous(memory_format=torch.channels_last)


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_model(recipe(model="resnet18"), 2)
    assert torch.equal(torch.rand(1), expected)


def test_unknown_models_are_refused() -> None:
    assert tuple(MODELS) == MODEL_NAMES  # of which a recipe names one; validation refuses any other name
    with pytest.raises(RecipeError, match="timm"):
        build_model(recipe(model="timm:no_such_model"), 2)


def test_batch_norm_normalises_like_torch_but_leaves_running_statistics_to_the_step() -> None:
    ours, reference = BatchNorm2d(5), torch.nn.BatchNorm2d(5, momentum=1.0)
    x = torch.randn(6, 5, 4, 3) * 3 + 1
    torch.testing.assert_close(ours(x), reference(x))
    assert ours.running_mean is not None
    assert ours.running_mean.abs().sum() == 0
    torch.testing.assert_close(ours.batch_mean, reference.running_mean)
    torch.testing.assert_close(ours.batch_var, reference.running_var)
    ours(x * 2)  # a second micro-batch replaces the first
    torch.testing.assert_close(ours.batch_mean, 2 * x.mean((0, 2, 3)))


def test_all_batch_norms_are_found() -> None:
    assert len(batch_norms(build_model(recipe(model="resnet50"), 2))) == 53


def test_normalize() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = torch.tensor([100.0, 110.0, 120.0]), torch.tensor([50.0, 60.0, 70.0])
    out = normalize(images, mean, std)
    assert out.shape == (2, 3, 4, 5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out[1, 2, 3, 4], (images[1, 3, 4, 2].float() - 120) / 70)
