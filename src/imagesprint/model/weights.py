"""Weights in and out: reading a checkpoint or a state dict, starting from one, and a trained model ready to use."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagesprint.errors import CheckpointError, UsageError
from imagesprint.model.building import build_model, normalize
from imagesprint.model.seal import PREFIX, check_seal
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import from_dict

# A head holds the names of the classes in its shape: torchvision calls it fc, timm head or classifier.
HEAD_PREFIXES = ("fc.", "head.", "classifier.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dict that a checkpoint file holds, on the CPU. Nothing in the file is executed.

    Raises UsageError where there is no such file, CheckpointError where it is cut short or no checkpoint.
    """
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}", "name a file such as RUN/checkpoints/step-0000625.pt")
    try:
        if not check_seal(path):  # not written by `train`: there are the archive's own checksums, which torch ignores
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if archive.comment.startswith(PREFIX):
                raise ValueError("it is cut short within its SHA-256")
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} does not match")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged or no checkpoint: {reason}",
            "delete it or copy it again; the checkpoint before it, if there is one, is used then",
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of weights", "use another file")
    return content


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """As `read_checkpoint`, for files that `imagesprint train` wrote: with model, step, recipe and classes."""
    content = read_checkpoint(path)
    missing = [key for key in ("model", "step", "recipe", "classes", "num_train") if key not in content]
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}: it was not written by imagesprint train",
            "a plain state dict serves as a start of training only: --set init=PATH",
        )
    return content


def load_weights(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a whole state dict that came from `path`. Raises CheckpointError where it does not fit."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not hold the weights of its own recipe: {str(error).splitlines()[0]}",
            "use another checkpoint",
        ) from error


def start_from(model: nn.Module, path: Path) -> list[str]:
    """Load the weights at `path` into `model`, all but a head of another size; returns the keys left as they were.

    `path` is a checkpoint of ours or a state dict with torchvision's names, as torch.save or safetensors wrote it.
    Raises CheckpointError where anything but the head does not fit.
    """
    given = _state_dict(path)
    own = model.state_dict()
    heads = {key for key in own if key.startswith(HEAD_PREFIXES)}
    left = [key for key in heads if key not in given or given[key].shape != own[key].shape]
    wrong = [
        key
        for key in own
        if key not in heads and not key.endswith("num_batches_tracked")
        if key not in given or given[key].shape != own[key].shape
    ]
    unknown = [key for key in given if key not in own]
    if wrong or unknown:
        example = (wrong + unknown)[0]
        raise CheckpointError(
            f"init: {path} does not fit the recipe's model: {len(wrong)} of its {len(own)} tensors are missing or of "
            f"another shape, {len(unknown)} are unknown (first: {example})",
            "choose the model that the weights were made with: --set model=NAME",
        )
    # A head is one layer: where its weight does not fit, its bias would belong to other classes.
    dropped = sorted(heads) if left else []
    model.load_state_dict({**own, **{key: given[key] for key in given if key not in dropped}})
    return dropped


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_checkpoint(path)
    state = content.get("ema") or content.get("model", content)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"init: {path} holds no state dict of tensors", "save one with torch.save(model.state_dict())"
        )
    return {key.removeprefix("module."): value for key, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UsageError(f"init: {path} needs the safetensors package", "pip install safetensors") from error
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"init: {path} cannot be read: {error}", "copy it again") from error


class TrainedModel(nn.Module):
    """A network with its normalisation inside: uint8 images [N, H, W, 3] → float32 logits [N, num_classes].

    `classes` holds their names in the order of the logits, `class_texts` the words that describe them, the names again
    where there are none; `recipe` says how it was trained, and so at what
    size it wants its images (`recipe.eval_resize`, `recipe.eval_image_size`); `step` counts the steps trained, on
    `num_train` different images.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        classes: tuple[str, ...],
        num_train: int,
        step: int = 0,
        class_texts: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.classes = classes
        self.class_texts = class_texts or classes
        self.num_train = num_train
        self.step = step
        self.register_buffer("mean", torch.tensor(recipe.mean))
        self.register_buffer("std", torch.tensor(recipe.std))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(normalize(images, self.mean, self.std))
        return logits


def load_model(path: str | Path, weights: str = "") -> TrainedModel:
    """The trained model of a checkpoint, or of the last checkpoint of a run directory, in evaluation mode on the CPU.

    `weights` is "model" for those of the last step, "ema" for their moving average, or "" for the average where the
    recipe keeps one (`ema_decay`), else those of the last step. Raises UsageError where nothing is there or no average
    is kept, CheckpointError where the file is damaged.
    """
    file = Path(path)
    if file.is_dir():
        checkpoints = list_checkpoints(file)
        if not checkpoints:
            raise UsageError(f"{file} holds no checkpoints/step-*.pt", "name a run directory or a checkpoint file")
        file = checkpoints[-1]
    content = read_training_checkpoint(file)
    recipe = from_dict(content["recipe"], origin=str(file))
    network = build_model(recipe, len(content["classes"]))
    load_weights(network, _chosen(content, weights, file), file)
    classes, texts = tuple(content["classes"]), tuple(content.get("class_texts", ()))
    return TrainedModel(network, recipe, classes, content["num_train"], content["step"], texts).eval()


def _chosen(content: dict[str, Any], weights: str, file: Path) -> Mapping[str, Tensor]:
    average, own = content.get("ema"), content["model"]
    if weights == "ema" and not average:
        raise UsageError(f"{file} holds no moving average of the weights", "train with --set ema_decay=0.9999")
    state: Mapping[str, Tensor] = own if weights == "model" else average or own
    return state


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint files of the run directory `run`, by their step."""
    found = {file: re.fullmatch(r"step-(\d+)\.pt", file.name) for file in (run / "checkpoints").glob("step-*.pt")}
    return sorted((file for file, match in found.items() if match), key=lambda file: int(file.stem[len("step-") :]))
