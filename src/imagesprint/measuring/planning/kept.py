"""Calibrations, kept by all that they depend on: measured once, they serve every plan and every training after it."""

import hashlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.files import write_text
from imagesprint.images.decoders import decoder_name
from imagesprint.measuring.calibration import Calibration, StepTime
from imagesprint.measuring.loading_cost import LoadingCost
from imagesprint.measuring.machine import versions
from imagesprint.measuring.step_timing import device_name
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import to_dict
from imagesprint.records.dataset import Root
from imagesprint.runs.ranks import Ranks

_FORMAT: Final = 2  # a calibration of another one is not read
_NO_MATTER: Final = ("name", "seed", "init", "eval_every", "phases")  # of a recipe, for how long its parts take


def kept_folder() -> Path:
    """Return the folder that calibrations are kept in; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesprint" / "calibrations"


class KeptCalibration:
    """The place of one calibration: that of `recipe`, whose precision and micro-batches are settled, on this hardware,
    with these versions and data.
    """

    def __init__(self, recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> None:
        self._facts = _facts(recipe, root, ranks, compiled)
        name = hashlib.sha256(json.dumps(self._facts, sort_keys=True).encode()).hexdigest()[:16]
        self.path = kept_folder() / f"{recipe.name.replace('/', '-')}-{name}.json"

    def read(self) -> tuple[Calibration, str] | None:
        """Return the calibration and the day it was made; None where there is none, or a damaged one."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return _calibration(content["calibration"]), content["made"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, calibration: Calibration, console: Console) -> str:
        """Write it, and return the day; where that is not possible, say so."""
        made = time.strftime("%Y-%m-%d")
        content = {"made": made, "calibration": asdict(calibration), "facts": self._facts}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            console.warn(f"{self.path} cannot be written ({error.strerror}): the calibration is not kept")
        return made


def _facts(recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> dict[str, Any]:
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
            [phase.image_size, phase.batch_size, phase.micro_batch, phase.source, phase.min_area]
            for phase in recipe.phases
        ],
    }


def _calibration(content: dict[str, Any]) -> Calibration:
    steps = tuple(StepTime(**{**row, "loading_cost": LoadingCost(**row["loading_cost"])}) for row in content["steps"])
    return Calibration(**{**content, "steps": steps})
