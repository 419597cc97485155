"""`benchmarks/recipes/`: a table of variants is trained, resumed and written up, with plain PyTorch beside it."""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.serialization import apply_overrides, to_toml

BENCHMARKS = Path(__file__).parents[1] / "benchmarks/recipes"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path) -> str:
    """A recipe of one epoch, four steps; the name of its file."""
    phase = Phase((0, 1), (0.1, 0.0), "linear", 16, 4, 16, "32", 0.3)
    file = tmp_path / "tiny.toml"
    file.write_text(to_toml(replace(tiny_recipe, phases=(phase,), eval_every=1)))
    return str(file)


def test_a_table_is_trained_and_read(
    tiny: str,
    photo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, plain = importlib.import_module("run"), importlib.import_module("plain")
    table, output = tmp_path / "table.toml", tmp_path / "runs"
    table.write_text(f'all = ["{tiny}"]\n[variants]\nours = []\ntheirs = ["plain:torchvision-2021"]\n')
    words = [tiny, "--data", str(photo_root), "--output", str(output / "photos/theirs-0")]
    monkeypatch.setattr(sys, "argv", ["plain.py", "torchvision-2021", *words])
    assert plain.main() == 0
    theirs = json.loads((output / "photos/theirs-0/result.json").read_text())
    assert theirs["trained"]["recipe"]["phases"][0]["image_size"] == 16
    words = [str(table), "--data", f"photos={photo_root}", "--output", str(output), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    assert run.main() == 0
    out, err = capsys.readouterr()
    assert err.count("TFLOP, 1.0000 of ours") == 2
    ours = json.loads((output / "photos/ours-0/result.json").read_text())
    assert f"| ours | 1 | {ours['top1']:.2f} | {ours['mean_class_accuracy']:.2f} | 1.0000 |" in out
    difference = theirs["top1"] - ours["top1"]
    assert f"| theirs | 1 | {theirs['top1']:.2f} ({difference:+.2f}) |" in out
    finished = (output / "photos/ours-0/commands.jsonl").read_bytes()
    assert run.main() == 0  # reads what is there
    assert (output / "photos/ours-0/commands.jsonl").read_bytes() == finished
    assert capsys.readouterr().out == out
    table.write_text(f'[variants]\nours = ["{tiny}", "label_smoothing=0.2"]\n')
    assert run.main() == 2
    assert "label_smoothing" in capsys.readouterr().err


def test_what_computes_more_is_refused(
    tiny: str, photo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module("run")
    table = tmp_path / "table.toml"
    table.write_text(f'[variants]\nbase = ["{tiny}"]\nlarger = ["{tiny}", "phases.0.image_size=20"]\n')
    monkeypatch.setattr(sys, "argv", ["run.py", str(table), "--data", f"photos={photo_root}", "--output", "nowhere"])
    assert run.main() == 2
    err = capsys.readouterr().err
    assert "error: larger: more than 1.005 of the computation of base" in err
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no [variants]"),
        ("[variants]\nbase = 3", "base is 3"),
        ("[variants]\nbase = []", "base is []"),
        ("all = [1]\n[variants]\nbase = []", "all is [1]"),
        ('[variants]\nbase = ["plain:nobody", "small"]', "NAME is one of torchvision, "),
    ],
)
def test_a_bad_table_is_refused(text: str, said: str, tmp_path: Path) -> None:
    run = importlib.import_module("run")
    table = tmp_path / "table.toml"
    table.write_text(text)
    with pytest.raises(run.UsageError) as caught:
        run.read_table(table)
    assert said in caught.value.what + caught.value.hint


def test_sets_have_a_name_and_a_root_and_there_is_a_seed() -> None:
    run = importlib.import_module("run")
    assert run.read_sets(["a=b", "c=s3://d?e=f"], 1) == {"a": "b", "c": "s3://d?e=f"}
    for entries, seeds, said in (
        (["ROOT"], 1, "'ROOT' is no SET=ROOT"),
        (["=b"], 1, "'=b'"),
        (["a=b"], 0, "0 are none"),
    ):
        with pytest.raises(run.UsageError) as caught:
            run.read_sets(entries, seeds)
        assert said in caught.value.what


def test_a_plain_training_has_the_network_epochs_and_sizes_of_the_recipe() -> None:
    plain = importlib.import_module("plain")
    recipe = apply_overrides(load_recipe("small"), ["shortcut=pool", "width=0.5", "ema_decay=0.9", "augment=trivial"])
    for settings in plain.SETTINGS.values():
        form = plain.plain_form(recipe, settings)
        for ours, theirs in zip(recipe.phases, form.phases, strict=True):
            assert (ours.epochs, ours.image_size, ours.source) == (theirs.epochs, theirs.image_size, theirs.source)
            assert theirs.micro_batch == theirs.batch_size == (settings.batch or ours.batch_size)
        assert (form.model, form.shortcut, form.width) == ("resnet18", "pool", 0.5)
        assert (form.eval_resize, form.eval_image_size) == (recipe.eval_resize, recipe.eval_image_size)
        assert (form.ema_decay, form.augment, form.zero_init) == (0.0, (), settings.zero_init)
    with pytest.raises(plain.UsageError, match="in steps"):
        plain.plain_form(load_recipe("classic"), settings)


def test_the_rates_are_those_of_the_sources() -> None:
    plain = importlib.import_module("plain")

    def rates(name: str, batch: int, epochs: int) -> list[float]:
        return [plain.learning_rate(plain.SETTINGS[name], batch, epoch, epochs) for epoch in range(epochs)]

    steps = rates("torchvision", 256, 90)
    assert [steps[epoch] for epoch in (0, 29, 30, 59, 60, 89)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    cosine = rates("torchvision-cosine", 1024, 600)
    assert cosine[0] == pytest.approx(0.005)  # LinearLR's start_factor 0.01
    assert max(cosine) == cosine[5] == pytest.approx(0.5)
    assert cosine[-1] < 1e-5
    timm = rates("timm", 128, 300)  # CosineLRScheduler with t_initial=300, warmup_t=3, warmup_lr_init=1e-4
    assert timm[:3] == pytest.approx([0.0001, 0.0001 + 0.0499 / 3, 0.0001 + 0.0998 / 3])
    assert timm[150] == pytest.approx(0.025)  # its warm-up lies over the cosine, not before it
    tutorial = rates("tutorial", 4, 25)
    assert [tutorial[epoch] for epoch in (6, 7, 14, 21)] == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])


def test_weights_decay_and_statistics_move_as_in_the_sources() -> None:
    plain = importlib.import_module("plain")
    recipe = apply_overrides(load_recipe("small"), ["width=0.125"])
    network = plain.network_of(plain.plain_form(recipe, plain.SETTINGS["timm"]), 5)
    norms = {id(parameter) for norm in plain.batch_norms(network) for parameter in norm.parameters()}
    assert network.fc.bias.abs().max() > 0  # nn.Linear's beginning; ours is 0
    decays_of: dict[str, Callable[[torch.nn.Parameter], float]] = {
        "torchvision": lambda _: 1e-4,
        "torchvision-2021": lambda parameter: 0.0 if id(parameter) in norms else 2e-5,
        "timm": lambda parameter: 2e-5 if parameter.ndim > 1 else 0.0,
    }
    for name, decays in decays_of.items():
        groups = plain.optimizer_of(network, plain.SETTINGS[name]).param_groups
        found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        assert found == {id(parameter): decays(parameter) for parameter in network.parameters()}
    ours = plain.batch_norms(network)[0]
    theirs = torch.nn.BatchNorm2d(ours.num_features)
    for images in torch.randn(3, 4, ours.num_features, 5, 5) * 2 + 1:
        torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_the_transforms_keep_size_and_mean_what_they_say() -> None:
    transforms = importlib.import_module("plain_transforms")
    torch.manual_seed(0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    assert transforms.random_resized_crop(image, 24).size == (24, 24)
    for operation in transforms._OPERATIONS.values():
        for level in (0.0, 0.5, 1.0):
            assert operation(image, level, -1).size == image.size
    shifted = np.asarray(transforms._OPERATIONS["translate_x"](image, 0.3, 1))  # 9 whole pixels of 9.6
    assert (shifted[:, :-9] == np.asarray(image)[:, 9:]).all()
    assert not shifted[:, -9:].any()
    unchanged = {name for name, operation in transforms._OPERATIONS.items() if operation(image, 0.0, 1) == image}
    assert unchanged >= {"identity", "shear_x", "translate_y", "rotate", "brightness", "sharpness", "posterize"}
    images, targets = torch.rand(4, 3, 8, 8), torch.eye(4)
    for _ in range(8):
        mixed, shares = transforms.mix(images, targets, 0.2, 1.0)
        assert shares.sum(1).tolist() == pytest.approx([1.0] * 4)
        own = shares.diagonal()[:, None, None, None]
        assert float((mixed.mean() - images.mean()).abs()) < 0.05
        assert (mixed - images).abs().amax() < 1e-6 or own.max() < 1
    erased = transforms.random_erasing(torch.ones(3, 32, 32), 1.0)
    assert 0.0 < float((erased == 0).float().mean()) < 0.4
