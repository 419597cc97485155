"""Calibrations: what the stages of a training take on this machine, measured once and kept."""

import hashlib
import json
import time
from dataclasses import asdict
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.diagnosis.machine import kept_measurements, versions
from imagesprint.diagnosis.stage_costs import LoadingSpeed, StageCosts, TrainingCosts
from imagesprint.diagnosis.step_timing import CheckpointTime, device_name
from imagesprint.diagnosis.verdict import Figures, PhaseFigures
from imagesprint.files import write_text
from imagesprint.images.decoders import decoder_name
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_dict
from imagesprint.records.dataset import Root
from imagesprint.runs.ranks import Ranks

DISTURBED: Final = 0.1  # of the cores' time: costs that were measured while others took more are measured anew

_FORMAT: Final = 4  # a calibration of another one is not read
_NO_MATTER: Final = ("name", "seed", "init", "eval_every", "phases")  # of a recipe, for how long its parts take


def told(costs: TrainingCosts, made: str) -> str:
    """Return whose speeds these are, for people."""
    return ", ".join(filter(None, (f"calibrated on this machine on {made}", disturbed_by(costs.disturbance))))


def disturbed_by(share: float) -> str:
    """Return what is said of costs that were measured while other processes took such a share of the cores' time; empty
    where it was small.
    """
    if share <= DISTURBED:
        return ""
    return f"while other processes used {share:.0%} of the cores: `imagesprint plan` measures again"


class KeptCalibration:
    """The place of one calibration, the costs of `recipe`, whose precision and micro-batches are settled, on this
    hardware, with these versions and data.
    """

    def __init__(self, recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> None:
        self._facts = _facts(recipe, root, ranks, compiled)
        name = hashlib.sha256(json.dumps(self._facts, sort_keys=True).encode()).hexdigest()[:16]
        self.path = kept_measurements() / f"{recipe.name.replace('/', '-')}-{name}.json"

    def read(self) -> tuple[TrainingCosts, str] | None:
        """Return the costs and the day they were measured; None where there is none, or a damaged one."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return _costs(content["calibration"]), content["made"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, costs: TrainingCosts, console: Console) -> tuple[TrainingCosts, str]:
        """Write `costs` and return them with the day; or what is there, if it was measured with less disturbance.

        Where it cannot be written, say so.
        """
        there, made = self.read(), time.strftime("%Y-%m-%d")
        if there is not None and there[0].disturbance < costs.disturbance:
            return there
        content = {"made": made, "calibration": asdict(costs), "facts": self._facts}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            console.warn(f"{self.path} cannot be written ({error.strerror}): the calibration is not kept")
        return costs, made


def _facts(recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> dict[str, object]:
    variants = [(root.nearest(phase.source), "train") for phase in recipe.phases]
    variants.append((root.nearest(recipe.eval_source), "validation"))
    fields = to_dict(recipe)
    return {
        "format": _FORMAT,
        "device": device_name(ranks),
        "ranks": [ranks.world_size, ranks.local_world_size, ranks.threads],
        "versions": versions("torch", "triton", "numpy", "pillow"),
        "compiled": compiled,
        "decoder": decoder_name(),
        "data": sorted(
            {f"{variant} {split} {root.dataset(variant, split).fingerprint}" for variant, split in variants}
        ),
        "recipe": {key: value for key, value in fields.items() if key not in _NO_MATTER},
        "phases": [
            [phase.image_size, phase.batch_size, phase.micro_batch, phase.freeze, phase.source, phase.min_area]
            for phase in recipe.phases
        ],
    }


def _costs(content: dict[str, Any]) -> TrainingCosts:
    """What `asdict` made of them."""

    def phase(row: dict[str, Any]) -> StageCosts:
        figures = Figures(**row["together"]["figures"])
        loaders = tuple(LoadingSpeed(**speed) for speed in row["loaders"])
        return StageCosts(
            **row | {"together": PhaseFigures(**row["together"] | {"figures": figures}), "loaders": loaders}
        )

    phases = tuple(map(phase, content["phases"]))
    return TrainingCosts(**content | {"phases": phases, "checkpoint": CheckpointTime(**content["checkpoint"])})
