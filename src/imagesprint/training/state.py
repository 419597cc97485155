"""All that a training carries from one step to the next, as tensors and as a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagesprint.console import Console
from imagesprint.errors import CheckpointError
from imagesprint.images.decoders import VARIABLE as DECODER_VARIABLE
from imagesprint.model.building import build_model
from imagesprint.model.checkpoint import TrainingCheckpoint, check_weights, load_weights
from imagesprint.model.weights import start_from
from imagesprint.recipes.compare import differences
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import to_dict
from imagesprint.training.optimizer import build_optimizer, restore_momentum
from imagesprint.training.precision import loss_scaler, weight_dtype
from imagesprint.training.step_sums import StepSums


class TrainingState:
    """Network, optimizer, moving average and loss scale after `step` steps, on one device.

    Built from the recipe's seed it is the state before the first step, but for `init` (see `start`).
    `train_seconds` is the time spent on steps so far, `compile_seconds` that on compiling them, `wall_seconds` that on
    everything but compiling; `bad_records` is how often another record stood in for a bad one, on all ranks;
    `overflows` how many steps' fp16 gradients overflowed. All of them
    count over all interruptions.
    """

    def __init__(
        self, recipe: Recipe, classes: tuple[str, ...], device: torch.device, class_texts: tuple[str, ...] = ()
    ) -> None:
        self.recipe = recipe
        self.classes = classes
        self.class_texts = class_texts or classes
        self.step = 0
        self.train_seconds = 0.0
        self.wall_seconds = 0.0
        self.compile_seconds = 0.0
        self.bad_records = 0
        self.overflows = 0
        network = build_model(recipe, len(classes))
        self.network = network.to(device, weight_dtype(recipe)).train()
        self.sums = StepSums(self.network)
        self.optimizer = build_optimizer(recipe, self.network)
        self.scaler = loss_scaler(recipe, device)
        # The network's own tensors, which keep their places: what is loaded is copied into them.
        self._averaged = {key: value for key, value in self.network.state_dict().items() if value.is_floating_point()}
        self.average = {key: value.clone() for key, value in self._averaged.items()} if recipe.ema_decay else {}

    def start(self, console: Console) -> None:
        """Take the weights that the recipe's `init` names, if any, and tell which."""
        if self.recipe.init:
            start_from(self.network, Path(self.recipe.init), console)
            for key, value in self.average.items():
                value.copy_(self._averaged[key])

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average of weights and statistics by one step, where the recipe keeps one."""
        if self.average:
            weight = 1 - self.recipe.ema_decay
            torch._foreach_lerp_(list(self.average.values()), list(self._averaged.values()), weight)

    def evaluated_weights(self) -> dict[str, Tensor]:
        """The state dict to judge: the moving average where there is one, else the weights themselves."""
        return {**self.network.state_dict(), **self.average}

    def checkpoint(self, num_train: int, data: str, decoder: str) -> dict[str, Any]:
        """Tensors and plain types only. `data` is the fingerprint of the `num_train` images, `decoder` what decodes.

        The tensors are those that the next step changes, on their device: see `runs.snapshot`.
        """
        return {
            "model": self.network.state_dict(),
            "ema": self.evaluated_weights() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "train_seconds": self.train_seconds,
            "wall_seconds": self.wall_seconds,
            "compile_seconds": self.compile_seconds,
            "bad_records": self.bad_records,
            "overflows": self.overflows,
            "recipe": to_dict(self.recipe),
            "classes": list(self.classes),
            "class_texts": list(self.class_texts),
            "num_train": num_train,
            "data": data,
            "decoder": decoder,
            "torch": str(torch.__version__),
        }

    def checkpoint_like(self) -> list[Tensor]:
        """Tensors of the kinds and in the numbers that a checkpoint has once the optimizer has begun."""
        return [*self.network.state_dict().values(), *self.network.parameters(), *self.average.values()]

    def restore(self, held: TrainingCheckpoint, data: str, decoder: str, force_decoder: bool) -> None:
        """Take over the checkpoint `held`.

        Raises CheckpointError where it does not fit the recipe's network, and where it was made from other data or,
        without `force_decoder`, with another decoder: what came out then would not be what an uninterrupted run gives.
        """
        if held.missing:
            raise CheckpointError(
                f"{held.path} lacks {', '.join(held.missing)}: it cannot be resumed from",
                "start a new run from its weights: --output NEW --set init=PATH",
            )
        others = differences(replace(held.recipe, bad_records=self.recipe.bad_records), self.recipe)
        if others:
            listed = "; ".join(f"{change.key} was {change.a!r}, is {change.b!r}" for change in others[:5])
            raise CheckpointError(
                f"{held.path} is of another recipe: {listed}", "resume in the run that it was made in, or use its own"
            )
        if held.data != data:
            raise CheckpointError(
                f"{held.path} was made with data {held.data!r}, this is {data!r}",
                "resume with the same data, or start a new run with another --output",
            )
        if held.decoder != decoder and not force_decoder:
            raise CheckpointError(
                f"{held.path} was made with decoder {held.decoder!r}, this is {decoder!r}: its pixels differ",
                f"{DECODER_VARIABLE}={held.decoder} in the environment keeps to the former, "
                f"{DECODER_VARIABLE}={decoder} goes on with the latter",
            )
        self._restore_tensors(held)
        self.step = held.step
        self.train_seconds, self.wall_seconds = held.train_seconds, held.wall_seconds
        self.compile_seconds = held.compile_seconds
        self.bad_records, self.overflows = held.bad_records, held.overflows

    def _restore_tensors(self, held: TrainingCheckpoint) -> None:
        if bool(self.scaler.state_dict()) != bool(held.scaler):
            raise CheckpointError(
                f"{held.path}: scaler is {'there' if held.scaler else 'empty'}, the recipe has "
                f"{'none' if held.scaler else 'a dynamic loss scale'}",
                "use another checkpoint",
            )
        if self.average:
            check_weights(held.ema or {}, self.network.state_dict(), f"{held.path}: ema")
        restore_momentum(self.optimizer, held.optimizer, f"{held.path}: optimizer")
        load_weights(self.network, held.model, f"{held.path}: model")
        self.scaler.load_state_dict(held.scaler)
        for key, value in self.average.items():
            value.copy_((held.ema or {})[key])
