"""In what arithmetic is evaluated: fp32, on a GPU that has it TF32, which is said beside each figure."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.checkpoints.weight_files import checkpoint_hash
from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.console import Console
from imagesprint.evaluating import evaluation
from imagesprint.evaluating.evaluation import blank_table, evaluate, evaluation_precision, evaluation_set, judge
from imagesprint.evaluating.results import FOLDER, ResultsKept
from imagesprint.evaluating.views import View, recalibrate
from imagesprint.files import read_rows
from imagesprint.images.decoders import decoder_name
from imagesprint.inference.opening import open_trained
from imagesprint.inference.prediction import predict
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import open_dataset, open_root
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.rows import EvaluationRow, from_json

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(("capability", "precision"), [((7, 0), "fp32"), ((8, 0), "tf32"), ((9, 0), "tf32")])
def test_tf32_where_the_gpu_has_it(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert evaluation_precision(GPU) == precision
    assert evaluation_precision(CPU) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_it_holds_for_all_that_judges_and_for_nothing_else(
    photo_root: Path, tiny_recipe: Recipe, alone: Ranks, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "evaluation_precision", lambda _: precision)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as open_ranks has it on a GPU
    allowed, root = [], open_root(photo_root)
    model = TrainedModel(build_model(tiny_recipe, 2), tiny_recipe, root.classes, 70)
    model.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    assert evaluate(model, evaluation_set(root, model), alone).precision == precision
    recalibrate(model, root.dataset("32", "train"), 16)
    opened = open_trained(model, Path("run"), Path("step-1.pt"), "cpu")
    predict(opened, [Path("missing.jpg")], 1, Console(quiet=True))
    assert allowed == [precision == "tf32"] * (3 + 2 + 1)
    assert not torch.backends.cudnn.allow_tf32


def test_fp32_is_back_where_a_model_fails(photo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "evaluation_precision", lambda _: "tf32")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    loader = EvaluationLoader(open_dataset(photo_root, "32", "validation"), 24, 28, 4)
    with loader, pytest.raises(ZeroDivisionError):
        judge(lambda _: 1 / 0, loader, blank_table(18, CPU))  # type: ignore[arg-type,return-value]
    assert not torch.backends.cudnn.allow_tf32


def test_what_was_kept_before_precisions_had_names_is_found_as_fp32(
    photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path], imagesprint: Callable[..., Any]
) -> None:
    checkpoint, root = write_checkpoint(tmp_path, 4), open_root(photo_root)
    key = [1, decoder_name(), "cpu", str(torch.__version__), View().describe(), checkpoint_hash(checkpoint)]
    name = f"step-0000004-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    done = imagesprint("evaluate", checkpoint, "--data", photo_root)
    assert done.code == 0, done.stderr
    assert done.stdout.rstrip().endswith("% in fp32")
    (file,) = (tmp_path / FOLDER).iterdir()
    assert file.name == name
    content = json.loads(file.read_text())
    assert content.pop("precision") == "fp32"
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "sha256"}))
    found = ResultsKept(root, CPU).find(checkpoint, View())
    assert found is not None
    assert found["precision"] == "fp32"
    (row,) = read_rows(tmp_path / "evaluations.jsonl")
    assert row.pop("precision") == "fp32"
    assert from_json(EvaluationRow, row).precision == "fp32"
    file.write_text("[]")
    assert ResultsKept(root, CPU).find(checkpoint, View()) is None


def test_a_result_in_one_precision_is_not_found_for_another(
    photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, root = write_checkpoint(tmp_path, 4), open_root(photo_root)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    old = ResultsKept(root, GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    new = ResultsKept(root, GPU)
    assert len({kept._file(checkpoint, View()) for kept in (old, new, ResultsKept(root, CPU))}) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tf32_on_a_gpu_is_near_fp32_on_the_cpu(photo_root: Path, tiny_recipe: Recipe) -> None:
    dataset = open_dataset(photo_root, "32", "validation")
    losses = []
    for device in (CPU, GPU):
        model = TrainedModel(build_model(tiny_recipe, 2), tiny_recipe, dataset.classes, 70).eval().to(device)
        table = blank_table(len(dataset), device)
        with EvaluationLoader(dataset, 24, 28, 4) as loader:
            judge(model, loader, table)
        losses.append(table[:-1, 3].cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=2e-3)
