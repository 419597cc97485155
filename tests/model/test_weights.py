from pathlib import Path

import pytest
import torch

from imagesprint.errors import CheckpointError, UsageError
from imagesprint.model.building import build_model
from imagesprint.model.weights import TrainedModel, list_checkpoints, load_model, read_checkpoint, start_from
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.toml_format import to_dict

RECIPE = Recipe(name="test", model="resnet20", phases=(Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 32),))


def save_checkpoint(path: Path, classes: int = 5) -> dict[str, torch.Tensor]:
    weights = build_model(RECIPE, classes).state_dict()
    names = [f"class {index}" for index in range(classes)]
    torch.save({"model": weights, "step": 7, "recipe": to_dict(RECIPE), "classes": names, "num_train": 40}, path)
    return weights


def test_fine_tuning_from_one_class_count_to_another_takes_all_but_the_head(tmp_path: Path) -> None:
    given = save_checkpoint(tmp_path / "a.pt", classes=5)
    model = build_model(RECIPE, 3)
    head = model.get_parameter("fc.weight").clone()
    assert start_from(model, tmp_path / "a.pt") == ["fc.bias", "fc.weight"]
    own = model.state_dict()
    assert torch.equal(own["fc.weight"], head)
    assert all(torch.equal(own[key], given[key]) for key in own if not key.startswith("fc."))


def test_the_same_class_count_takes_the_head_too(tmp_path: Path) -> None:
    given = save_checkpoint(tmp_path / "a.pt")
    model = build_model(RECIPE, 5)
    torch.nn.init.zeros_(model.get_parameter("fc.weight"))
    assert start_from(model, tmp_path / "a.pt") == []
    assert torch.equal(model.state_dict()["fc.weight"], given["fc.weight"])


def test_a_plain_state_dict_with_torchvisions_names_or_a_prefix_is_a_start(tmp_path: Path) -> None:
    given = build_model(RECIPE, 5).state_dict()
    torch.save({f"module.{key}": value + 1 for key, value in given.items()}, tmp_path / "state.pt")
    model = build_model(RECIPE, 5)
    start_from(model, tmp_path / "state.pt")
    assert torch.equal(model.state_dict()["conv1.weight"], given["conv1.weight"] + 1)


def test_weights_of_another_model_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt")
    other = build_model(Recipe(name="test", model="resnet18", phases=RECIPE.phases), 5)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not fit"):
        start_from(other, tmp_path / "a.pt")
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.pt"):
        read_checkpoint(tmp_path / "no.pt")
    with pytest.raises(UsageError, match="checkpoints"):
        load_model(tmp_path)


@pytest.mark.parametrize("length", [0, 10, 5_000, -1])
def test_a_checkpoint_cut_short_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "step-0000007.pt"
    save_checkpoint(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="step-0000007") as caught:
        load_model(path)
    assert caught.value.hint


def test_other_files_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="list"):
        load_model(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="step, recipe, classes"):
        load_model(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_trained_model_takes_uint8_images(tmp_path: Path) -> None:
    weights = save_checkpoint(tmp_path / "a.pt")
    model = load_model(str(tmp_path / "a.pt"))
    assert isinstance(model, TrainedModel)
    assert (model.step, model.classes[2], model.recipe) == (7, "class 2", RECIPE)
    assert not model.training
    images = torch.randint(0, 256, (3, 24, 24, 3), dtype=torch.uint8)
    logits = model(images)
    assert (logits.shape, logits.dtype) == ((3, 5), torch.float32)
    network = build_model(RECIPE, 5).eval()
    network.load_state_dict(weights)
    normal = (images.float() - torch.tensor(RECIPE.mean)) / torch.tensor(RECIPE.std)
    torch.testing.assert_close(logits, network(normal.permute(0, 3, 1, 2)))


def test_the_moving_average_is_what_is_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    content["ema"] = {key: torch.zeros_like(value) for key, value in content["model"].items()}
    torch.save(content, tmp_path / "a.pt")
    assert load_model(tmp_path / "a.pt").network.get_parameter("fc.weight").abs().sum() == 0


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step-0000007.pt"
    save_checkpoint(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        load_model(path)


def test_checkpoints_are_ordered_by_step_and_other_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("step-best.pt", "step-0000005.pt", "step-12345678.pt", "step-9999999.pt", ".step-0000009.pt.1.tmp"):
        (tmp_path / "checkpoints" / name).touch()
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-0000005.pt", "step-9999999.pt", "step-12345678.pt"]
