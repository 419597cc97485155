"""What pixels weights were trained with, where that is known, and whether the recipe that starts from them has others.

Nobody who gives a network other pixels than it knows would notice otherwise: it trains all the same, to less. Known it
is of our own checkpoints, which hold their recipe; of timm's and torchvision's weights by name, which say it; and of
EfficientNet-Lite0, which was published once.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from imagesprint.errors import RecipeError
from imagesprint.model.efficientnet import TRAINED_WITH, renamed
from imagesprint.recipes.recipe import Recipe, from_plain, kinds

# By the names of the recipe's fields, those of _FIELDS that are known
TrainedWith = Mapping[str, tuple[float, ...] | float]

# The fields, and by how much they may differ: half a pixel value is a hundredth of the usual std
_FIELDS: Final = {
    "mean": {"rel_tol": 0.0, "abs_tol": 0.5},
    "std": {"rel_tol": 0.0, "abs_tol": 0.5},
    "bn_eps": {"rel_tol": 1e-3, "abs_tol": 0.0},
}


def in_pixels(mean: Any, std: Any) -> TrainedWith:
    """From `mean` and `std` as timm and torchvision have them, three numbers in 0..1 each; nothing of anything else."""
    fields = {"mean": mean, "std": std}
    return {
        name: tuple(255.0 * value for value in values)
        for name, values in fields.items()
        if isinstance(values, list | tuple) and len(values) == 3
    }


def told_by(content: object, names: Iterable[str]) -> TrainedWith:
    """What a file of weights tells: one of ours by the recipe in its `content`, others by the `names` of tensors."""
    known: dict[str, tuple[float, ...] | float] = {}
    if isinstance(content, dict) and "num_train" in content and isinstance(recipe := content.get("recipe"), dict):
        for name in _FIELDS.keys() & recipe.keys():
            with suppress(RecipeError):  # it was changed, or is another program's
                known[name] = from_plain(kinds(Recipe)[name], recipe[name], name)
        return known
    return TRAINED_WITH if any(renamed(name) != name for name in names) else known


def unlike(recipe: Recipe, known: TrainedWith, what: str) -> str:
    """A warning where `recipe` has others than `what` was trained with, as far as that is `known`; else "".

    A model of timm's has batch norms of its own, whatever the recipe's bn_eps.
    """
    others = {name: known[name] for name in _FIELDS if name in known and not _near(name, recipe, known[name])}
    if recipe.model.startswith("timm:"):
        others.pop("bn_eps", None)
    if not others:
        return ""
    ours = " and ".join(f"{name} {_text(getattr(recipe, name))}" for name in others)
    theirs = " and ".join(f"{name} {_text(value)}" for name, value in others.items())
    sets = " ".join(f"--set {name}={_text(value)}" for name, value in others.items())
    return (
        f"init: {what} was trained with {theirs}, the recipe has {ours}: images are not what it learned from; better "
        f"{sets}"
    )


def _near(name: str, recipe: Recipe, known: tuple[float, ...] | float) -> bool:
    pairs = zip(_numbers(getattr(recipe, name)), _numbers(known), strict=True)
    return all(math.isclose(*pair, **_FIELDS[name]) for pair in pairs)


def _numbers(value: tuple[float, ...] | float) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _text(value: tuple[float, ...] | float) -> str:
    return ",".join(f"{number:g}" for number in _numbers(value))
