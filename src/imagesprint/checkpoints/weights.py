"""Weights in: a trained model ready to use, and starting a training from what somebody else saved."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagesprint.checkpoints.cached import cached, last_of
from imagesprint.checkpoints.format import check_values, load_weights, read_training_checkpoint
from imagesprint.checkpoints.named_weights import named_weights
from imagesprint.checkpoints.trained_with import TrainedWith, told_by, unlike
from imagesprint.checkpoints.weight_files import Inert, no_plain_tensor, read_foreign
from imagesprint.console import Console
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.model.building import build_model, normalize
from imagesprint.model.depths import HEAD_PREFIXES
from imagesprint.model.efficientnet import renamed
from imagesprint.recipes.recipe import INIT_KINDS, Recipe
from imagesprint.storage.url import Place, parse_place

COUNTER = "num_batches_tracked"  # of a batch norm: not used here, and not there before PyTorch 0.4.1
# What wrappers put into a name, in any order and place: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Where programs keep the weights themselves. Beside those, `best_state_dict` or `teacher` are others.
_USUAL = {
    *("model", "state", "net", "network", "model_state", "state_dict", "model_state_dict", "net_state_dict"),
    *_WRAPPERS,
}
_AVERAGE = re.compile(r"(^|[._])ema([._]|$)|averag", re.IGNORECASE)
_DEPTH = 6  # of dicts in dicts: no program that is known goes deeper than 3
_LISTED = 12  # names shown of those left


class TrainedModel(nn.Module):
    """A network with its normalisation inside: uint8 images [N, H, W, 3] → float32 logits [N, num_classes].

    `classes` holds their names in the order of the logits, `class_texts` the words that describe them, the names again
    where there are none; `recipe` says how it was trained, and so at what size it wants its images
    (`recipe.eval_resize`, `recipe.eval_image_size`); `step` counts the steps trained, on `num_train` different images.
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


def load_model(path: str | Place, weights: str = "") -> TrainedModel:
    """The trained model of a checkpoint, or of the last checkpoint of a run, in evaluation mode on the CPU.

    Either may be named by its URL; the file is then kept in the cache (`storage.cache.cache_folder`).
    `weights` is "model" for those of the last step, "ema" for their moving average, or "" for the average where the
    recipe keeps one (`ema_decay`), else those of the last step. Raises UsageError where nothing is there or no average
    is kept, CheckpointError where the file is damaged.
    """
    place = parse_place(path) if isinstance(path, str) else path
    with cached(last_of(place)) as file:
        return _load_model(file, weights)


def _load_model(file: Path, weights: str) -> TrainedModel:
    held = read_training_checkpoint(file)
    if weights == "ema" and held.ema is None:
        raise UsageError(f"{file} holds no moving average of the weights", "train with --set ema_decay=0.9999")
    network = build_model(held.recipe, len(held.classes))
    if weights == "model" or held.ema is None:
        load_weights(network, held.model, f"{file}: model")
    else:
        load_weights(network, held.ema, f"{file}: ema")
    return TrainedModel(network, held.recipe, held.classes, held.num_train, held.step, held.class_texts).eval()


def start_from(
    model: nn.Module, init: str | Place, console: Console | None = None, recipe: Recipe | None = None
) -> list[str]:
    """Load the weights that `init` names into `model`, all but a head of another size; returns the keys left alone.

    At a path or a URL lies what torch.save or safetensors wrote of a network with these names (torchvision's and timm's
    have ours): a state dict, alone or inside what a training program saves; of several, a moving average. Other names
    are those of `named_weights`. What was taken and what was left goes to `console`, with a warning where the weights
    are known to be trained with other pixels than `recipe` has. Raises CheckpointError where anything but the head does
    not fit, and where several fit alike; the model is then as it was.
    """
    if isinstance(init, str) and init.startswith(INIT_KINDS):
        content, known = named_weights(init)
        return _start_from(model, content, known, init, console, recipe)
    place = parse_place(init) if isinstance(init, str) else init
    with cached(place) as path:
        if console is not None and path != place:
            console.show_as(path, place)
        return _start_from(model, read_foreign(path), {}, path, console, recipe)


def _start_from(
    model: nn.Module,
    content: object,
    known: TrainedWith,
    path: str | Path,
    console: Console | None,
    recipe: Recipe | None,
) -> list[str]:
    """Take what fits of `content`, which `path` names in messages."""
    own = model.state_dict()
    found = _choose(list(_find(content, own)), own, content, path)
    heads = {key for key in own if key.startswith(HEAD_PREFIXES)}
    # A layer is taken whole: where its weight does not fit, its bias would belong to other classes.
    others = {_layer(key) for key in heads if not _fits(found.tensors.get(key), own[key])}
    dropped = sorted(key for key in heads if _layer(key) in others)
    taken = {}
    for key, value in found.tensors.items():
        if key in dropped or (key.endswith(COUNTER) and not _fits(value, own[key])):
            continue
        fault = no_plain_tensor(value)
        where = f"init: {path}: {found.keys[key]}"
        if fault is not None:
            raise CheckpointError(
                f"{where} is {fault}", "save a state dict of ordinary tensors: torch.save(model.state_dict(), FILE)"
            )
        check_values(value, own[key], where)
        taken[key] = value
    model.load_state_dict({**own, **taken})
    if console is not None:
        _tell(console, path, found, taken, dropped, content)
        if recipe is not None:
            names = map(_unwrapped, found.keys.values())
            if warning := unlike(recipe, known or told_by(content, names), str(path)):
                console.warn(warning)
    return dropped


@dataclass(frozen=True)
class _Found:
    """A state dict in a file: at `place`, keys of dicts in one another, under the names that begin with `prefix`.

    `tensors` are by the model's own names, `keys` are theirs in the file; `wrong` of the model's are missing there or
    of another shape, `unknown` are there beside them in the same parts of the network: it is another one.
    """

    place: tuple[str, ...]
    prefix: str
    tensors: dict[str, Any]
    keys: dict[str, str]
    wrong: list[str]
    unknown: list[str]

    @property
    def is_average(self) -> bool:
        return _AVERAGE.search(".".join((*self.place, self.prefix))) is not None

    @property
    def is_usual(self) -> bool:
        return {*self.place, *self.prefix.split(".")[:-1]} <= _USUAL

    def describe(self) -> str:
        where = f" of {_listed('.'.join(self.place))}" if self.place else ""
        ours = [(name, key) for name, key in self.keys.items() if key.endswith(name) and renamed(key) == key]
        prefixes = {key.removesuffix(name) for name, key in ours} - {""}
        dropped = f" without the prefix {_listed(*sorted(prefixes))}" if prefixes else ""
        return f"{where}{dropped}{', a moving average' if self.is_average else ''}"

    def same(self, other: "_Found") -> bool:
        return self.tensors.keys() == other.tensors.keys() and all(
            not (no_plain_tensor(value) or no_plain_tensor(other.tensors[key])) and value.equal(other.tensors[key])
            for key, value in self.tensors.items()
        )


def _find(content: object, own: Mapping[str, Tensor]) -> Iterator[_Found]:
    """Every state dict in `content` that has a tensor by a name of the model."""
    names, parts = {_bare(key): key for key in own}, {_part(key) for key in own}
    body = [key for key in own if not key.startswith(HEAD_PREFIXES) and not key.endswith(COUNTER)]
    for place, table in _tables(content, (), set()):
        keys = {_bare(key): key for key in table}
        if len(keys) < len(table):  # two names differ in a wrapper alone: they are two networks
            keys = {key: key for key in table}
        groups: dict[str, dict[str, str]] = {}
        for name, key in keys.items():
            at = next((at for at in _starts(name) if name[at:] in names), None)
            if at is not None:
                groups.setdefault(name[:at], {})[names[name[at:]]] = key
        for prefix, group in groups.items():
            tensors = {key: table[theirs] for key, theirs in group.items()}
            wrong = [key for key in body if not _fits(tensors.get(key), own[key])]
            used = set(group.values())
            unknown = [
                key
                for name, key in keys.items()
                if name.startswith(prefix) and key not in used and _is_layer(table[key])
                # What belongs to no part of the model lies beside it: another network, a head by its own name.
                if _part(name.removeprefix(prefix)) in parts and not name.removeprefix(prefix).startswith(HEAD_PREFIXES)
            ]
            yield _Found(place, prefix, tensors, group, wrong, unknown)


def _tables(node: object, place: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The dicts with names in `node`, each once, and where they are; a whole module is the state dict that it has."""
    if id(node) in seen or len(place) > _DEPTH:
        return
    seen.add(id(node))
    if isinstance(node, Inert) and isinstance(node.state, dict):
        if "_modules" in node.state:
            yield place, dict(_flat(node, "", _DEPTH * 4))
            return
        node = {**node, **node.state}
    rows = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    children = [(str(key), value) for key, value in rows]
    if isinstance(node, dict):
        yield place, {key: value for key, value in children if isinstance(value, Tensor | Inert)}
    for key, value in children:
        if "optim" not in key:  # its tensors bear the weights' names and are none
            yield from _tables(value, (*place, key), seen)


def _flat(module: Inert, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The names and tensors of a module that was saved whole."""
    for part in ("_parameters", "_buffers"):
        for name, value in (module.state.get(part) or {}).items():
            if isinstance(value, Tensor | Inert):
                yield f"{prefix}{name}", value
    for name, child in (module.state.get("_modules") or {}).items():
        if isinstance(child, Inert) and isinstance(child.state, dict) and depth:
            yield from _flat(child, f"{prefix}{name}.", depth - 1)


def _choose(found: list[_Found], own: Mapping[str, Tensor], content: object, path: str | Path) -> _Found:
    """The one to take; raises CheckpointError where none fits or several do alike."""
    if not found:
        held = _listed(*content) if isinstance(content, dict) and content else f"a {type(content).__name__}"
        raise CheckpointError(
            f"init: {path} holds no state dict of tensors with the model's names, but {held}",
            "save one with torch.save(model.state_dict())",
        )
    fitting = [one for one in found if not one.wrong and not one.unknown]
    if not fitting:
        nearest = min(found, key=lambda one: len(one.wrong) + len(one.unknown))
        example = _listed((nearest.wrong + nearest.unknown)[0])
        raise CheckpointError(
            f"init: {path} does not fit the recipe's model: {len(nearest.wrong)} of its {len(own)} tensors are missing "
            f"or of another shape, {len(nearest.unknown)} are unknown (first: {example})",
            "choose the model that the weights were made with: --set model=NAME",
        )
    rank = min((not one.is_average, not one.is_usual) for one in fitting)
    first, *others = [one for one in fitting if (not one.is_average, not one.is_usual) == rank]
    if not all(first.same(other) for other in others):
        raise CheckpointError(
            f"init: {path} holds several networks that fit:{first.describe()}, and{others[0].describe()}",
            "save the one that is meant alone: torch.save(STATE_DICT, FILE)",
        )
    return first


def _tell(
    console: Console, path: str | Path, found: _Found, taken: Mapping[str, Any], dropped: list[str], content: object
) -> None:
    console.line(f"start       from {path}: {len(taken)} tensors{found.describe()}")
    if dropped:
        console.line(f"start       left as the seed made them: {', '.join(dropped)}")
    rest: list[object] = []
    for key in found.place:
        state = content.state if isinstance(content, Inert) and isinstance(content.state, dict) else {}
        rows = {**content, **state} if isinstance(content, dict) else dict(enumerate(content))  # type: ignore[arg-type]
        rest += [other for other in rows if str(other) != key]
        content = next(value for other, value in rows.items() if str(other) == key)
    if isinstance(content, dict) and not isinstance(content, Inert):
        used = {found.keys[key] for key in taken}
        rest += [key for key in content if key not in used]
    if rest:
        console.line(f"start       not taken: {_listed(*rest)}")


def _bare(name: str) -> str:
    """`name` without what wrappers put into it, as our networks have it."""
    return renamed(_unwrapped(name))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _part(name: str) -> str:
    """The part of a network that a name belongs to; all stages are one: `layer` for layer1.0.conv1.weight."""
    return name.partition(".")[0].rstrip("0123456789")


def _starts(name: str) -> Iterator[int]:
    """Where a name may begin behind a prefix, the shortest prefix first."""
    yield 0
    yield from (at + 1 for at, char in enumerate(name) if char == ".")


def _is_layer(value: object) -> bool:
    """Whether `value` is a tensor, of more than a lone number: that is a count beside the network."""
    return (isinstance(value, Tensor) and value.ndim > 0) or (
        isinstance(value, Inert) and value.origin.startswith("torch._utils._rebuild")
    )


def _fits(given: object, own: Tensor) -> bool:
    """Whether `given` has the shape of `own`; what has none is judged when it is taken."""
    return given is not None and (not isinstance(given, Tensor) or given.is_nested or given.shape == own.shape)


def _listed(*names: object) -> str:
    texts = [str(name) if str(name).isprintable() else repr(name) for name in names[:_LISTED]]
    return ", ".join(texts) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
