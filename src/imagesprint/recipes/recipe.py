"""The recipe: one frozen table that holds whatever changes a training's result, and the types of its fields."""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from imagesprint.errors import RecipeError


@dataclass(frozen=True)
class Phase:
    """One row of the table: a half-open range of epochs (or of steps) with all that holds in it.

    Exactly one of `epochs` and `steps` is given. `lr` is the rate at the range's start and the one it runs towards, by
    `method`: "linear", "exponential", "cosine", or "constant", where both are the same. `batch_size` is global: the
    images of one optimizer step on all ranks together; `micro_batch` of them pass through the network, and share
    batch-norm statistics, at once. `source` names the variant of the data to read (`full` or the shorter side in
    pixels), `min_area` the least share of the image a crop covers. `micro_batch` may be 0, written auto: `train` then
    puts the largest that fits into memory in its place. What `freeze` names is not trained: "none", "backbone" (all but
    the head) or "stages N" (the stem and the first N stages).
    """

    epochs: tuple[int, int] | None
    lr: tuple[float, float]
    method: str
    batch_size: int
    micro_batch: int = field(metadata={"auto": True})
    image_size: int
    source: str = "full"
    min_area: float = 0.08
    steps: tuple[int, int] | None = None
    freeze: str = "none"

    @property
    def micro_batches(self) -> int:
        """Micro-batches in one step, over all ranks. Raises RecipeError where `micro_batch` is not settled yet."""
        if not self.micro_batch:
            raise RecipeError(
                "micro_batch is auto: a number takes its place only when a training begins",
                "give a number, such as --set 'phases.*.micro_batch=32'",
            )
        return self.batch_size // self.micro_batch


@dataclass(frozen=True)
class Recipe:
    """A whole training: its phases and everything else that changes its result.

    Pixel values (`mean`, `std`) are in 0..255. The defaults are those of today's usual ResNet training; each
    built-in recipe states where it differs and why.
    """

    name: str
    phases: tuple[Phase, ...]
    seed: int = 0

    # network
    model: str = "resnet50"
    strides: str = "v1.5"  # where a bottleneck strides: "v1" in its first 1×1, "v1.5" in its 3×3 convolution
    zero_init: bool = True  # last batch-norm scale of each block starts at 0 (Goyal et al. 2017, section 5.1)
    blurpool: bool = False  # low-pass filter before striding (Zhang 2019)
    stem: str = "default"  # the architecture's own; "deep": three 3×3 (ResNet-D); "3x3": one at stride 1, no pooling
    shortcut: str = "conv"  # where a block changes the shape; "pool": average pooling, then a 1×1 (ResNet-D)
    attention: str = "none"  # on a block's last batch norm: "se" (Hu et al. 2017) or "eca" (Wang et al. 2019)
    width: float = 1.0  # factor on the channels of all layers, which become multiples of 8
    init: str = ""  # weights to start from: a file, a URL, timm:NAME, torchvision:NAME, package:DISTRIBUTION
    bn_momentum: float = 0.1
    bn_eps: float = 1e-5
    freeze_norm: str = "frozen"  # batch norms whose statistics stand still, and normalise: of frozen parts; all; none
    features_once: bool = False  # each image passes through the frozen backbone one time, and only the head trains

    # optimizer and loss
    optimizer: str = "sgd"
    loss: str = "cross_entropy"
    momentum: float = 0.9  # adamw: β1
    beta2: float = 0.999  # adamw only
    nesterov: bool = False
    rest_lr: float = 1.0  # lars, muon: factor on the rate of norms and biases, and of muon's first layer and head
    backbone_lr: float = 1.0  # factor on the rate of all but the head
    layer_decay: float = 1.0  # factor for each depth below the head: once in the last stage, squared before it, …
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0  # focal only: how little counts what is right already (Lin et al. 2017)
    class_weights: str = "none"  # of a class with n images: "balanced" ~ 1 / n, "sqrt" ~ 1 / √n; their mean is 1
    ema_decay: float = 0.0  # per step; 0: no moving average
    precision: str = "auto"  # auto: bf16 where the hardware multiplies it fast, else fp32
    loss_scale: float = 0.0  # fp16 only; 0: dynamic

    # training images
    crop: str = "random_resized"
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    min_object_covered: float = 0.1  # distorted_bbox only
    flip: bool = True
    # Batch transforms in their order: "mixup A" and "cutmix A" (what is mixed in is of Beta(A, A); where both are
    # named, each image gets one of them, at random), "erasing P" (with probability P a box is set to the mean pixel),
    # "jitter S" (brightness, contrast, saturation by factors in 1 ± S), "grey P", "trivial" (TrivialAugment), "pad N"
    # (moved by up to N pixels each way, mirrored at the edges).
    augment: tuple[str, ...] = ()
    antialias: bool = True
    balance: bool = False  # each class equally often, however many images it has; an epoch is as many images as ever
    bad_records: str = "stop"  # or "substitute": the next sound sample of the epoch's order stands in, and is counted
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    # evaluation: shorter side to eval_resize, then the centre, whose shorter side is eval_image_size
    eval_source: str = "full"
    eval_resize: int = 256
    eval_image_size: int = 224
    eval_shape: str = "square"  # or "rectangle": the image's own ratio, to the nearest sixth and at most 2 : 1
    eval_batch_size: int = 256
    eval_every: int = 1  # epochs; 0: at the end alone

    # the end
    # `patience` evaluations without a better top-1 end the run; 0: it never ends early. Not for a rate that falls to
    # the end (cosine, linear): its last epochs bring most. The result is the last checkpoint; `report` names the best.
    patience: int = 0
    recalibrate_bn: int = 0  # steps' worth of images, those that would follow, to measure batch norm's statistics by

    @property
    def transforms(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """What `augment` asks for: (name, numbers) each. Raises ValueError where what stands for a number is none."""
        words = (entry.split() for entry in self.augment)
        return tuple((name, tuple(map(float, numbers))) for name, *numbers in words)

    @property
    def turns(self) -> tuple[tuple[tuple[str, tuple[float, ...]], ...], ...]:
        """The transforms as images go through them; of several in one turn, those of MIXERS, each image gets one."""
        mixers = tuple(row for row in self.transforms if row[0] in MIXERS)
        firsts = (row for row in self.transforms if row not in mixers[1:])
        return tuple(mixers if row in mixers else (row,) for row in firsts)

    @property
    def draws(self) -> tuple[tuple[int, int], ...]:
        """What the transforms draw for each sample: (purpose, count) of each that draws at all, as in `turns`.

        Before those of several in one turn stands which of them it is.
        """
        rows = []
        for turn in self.turns:
            rows += [CHOICE] * (len(turn) > 1) + [TRANSFORM_DRAWS[name] for name, _ in turn]
        return tuple((row.purpose, row.count) for row in rows if row.count)


@dataclass(frozen=True)
class TransformDraws:
    """What is known of a batch transform without torch.

    `purpose` is that of its draws in the counter-based generator (`images/draws.py`), from 16 on; one that was given
    once is never given to another: streams would change unnoticed. A sample takes `count` of them. `numbers` has the
    least and the greatest value of each number that follows the transform's name in `augment`; where both are int, it
    is a whole number.
    """

    purpose: int
    count: int
    numbers: tuple[tuple[float, float], ...] = ()


# What a recipe may name. What stands behind a name needs torch, which recipes do not know: `MODELS` in
# model/building.py, `OPTIMIZERS`, `LOSSES` and `TRANSFORMS` in training/ have the same keys (a test holds them to it).
# model is one of these, or timm:NAME
MODEL_NAMES = ("resnet18", "resnet20", "resnet34", "resnet50", "resnet101", "resnet152", "efficientnet_lite0")
OPTIMIZER_NAMES = ("sgd", "adamw", "lars", "muon")
LOSS_NAMES = ("cross_entropy", "bce", "focal")
CLASS_WEIGHTS = ("none", "balanced", "sqrt")
TRANSFORM_DRAWS = {  # the loader makes them, below all that has torch
    "mixup": TransformDraws(16, 1, ((0.01, 8.0),)),
    "cutmix": TransformDraws(17, 3, ((0.01, 8.0),)),
    "erasing": TransformDraws(18, 5, ((0.0, 1.0),)),
    "jitter": TransformDraws(19, 3, ((0.0, 1.0),)),
    "grey": TransformDraws(20, 1, ((0.0, 1.0),)),
    "trivial": TransformDraws(21, 2),
    "pad": TransformDraws(22, 2, ((1, 64),)),
}
MIXERS = ("mixup", "cutmix")  # what makes mixtures of two images: where a recipe names several, each image gets one
CHOICE = TransformDraws(23, 1)  # which of them
METHODS = ("linear", "exponential", "cosine", "constant")
CROPS = ("random_resized", "distorted_bbox", "center")
FREEZES = r"none|backbone|stages [1-9][0-9]?"  # a regular expression
PRECISIONS = ("auto", "bf16", "fp16", "fp32", "fp64")
STRIDES = ("v1", "v1.5")
INIT_KINDS = ("timm:", "torchvision:", "package:")  # what `init` begins with where it names no file
STEMS = ("default", "deep", "3x3")
SHORTCUTS = ("conv", "pool")
FREEZE_NORMS = ("none", "frozen", "all")
ATTENTIONS = ("none", "se", "eca")
RESNET_FIELDS = ("blurpool", "stem", "shortcut", "attention", "width")  # what other models have no use for
BAD_RECORDS = ("stop", "substitute")
EVAL_SHAPES = ("square", "rectangle")


_ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_EXAMPLES = {2: "[0, 6]", 3: "[128, 128, 128]"}  # by length
_BOOLS = {"true": True, "false": False}
_BITS = 64  # of TOML's integers, with their sign
_SHOWN = 80  # characters
_ANY_LENGTH = -1


@dataclass(frozen=True)
class Kind:
    """The type of one field: `base` is int, float, bool or str; `length` is 0 for one value, else a tuple's.

    A tuple of any length has a negative one. `auto`: the word auto may be written for 0.
    """

    base: type
    length: int = 0
    optional: bool = False
    auto: bool = False

    def __str__(self) -> str:
        if not self.length:
            return _ONE[self.base] + (" or auto" if self.auto else "")
        return f"a list of {self.length} {_MANY[self.base]}" if self.length > 0 else f"a list of {_MANY[self.base]}"


def _kind(hint: Any) -> Kind:
    if isinstance(hint, types.UnionType):
        inner = _kind(next(arg for arg in typing.get_args(hint) if arg is not types.NoneType))
        return Kind(inner.base, inner.length, optional=True)
    items = typing.get_args(hint)
    if not items:
        return Kind(hint)
    return Kind(items[0], _ANY_LENGTH if items[-1] is Ellipsis else len(items))


_KINDS = {
    table: {
        field.name: dataclasses.replace(_kind(hints[field.name]), auto=field.metadata.get("auto", False))
        for field in dataclasses.fields(table)
        if field.name != "phases"
    }
    for table, hints in ((table, typing.get_type_hints(table)) for table in (Recipe, Phase))
}


def kinds(table: type[Recipe] | type[Phase]) -> dict[str, Kind]:
    """The settable fields of `table` in their order; a recipe's `phases` are not among them."""
    return _KINDS[table]


def from_plain(kind: Kind, value: object, where: str) -> Any:
    """`value` (None, int, float, bool, str, or a list or tuple of them) as the field holds it.

    A whole number does for a float, nothing else is converted; RecipeError names `where` and the value.
    """
    if value is None and kind.optional:
        return None
    if not kind.length:
        return _scalar(kind, value, value, where)
    if not isinstance(value, list | tuple) or (kind.length > 0 and len(value) != kind.length):
        raise _wrong_type(kind, value, where)
    return tuple(_scalar(kind, item, value, where) for item in value)


def _scalar(kind: Kind, item: object, value: object, where: str) -> Any:
    if kind.auto and type(item) is str and item == "auto":
        return 0
    if type(item) is int and kind.base in (int, float) and item.bit_length() < _BITS:
        return kind.base(item)
    if type(item) is not kind.base or kind.base is int:
        raise _wrong_type(kind, value, where)
    return item


def from_text(kind: Kind, text: str, where: str) -> Any:
    """The value that a person wrote as `text`, such as `0.1`, `true`, `[0, 6]` or `0,6`."""
    text = text.strip()
    if kind.optional and text.lower() == "none":
        return None
    if kind.auto and text == "auto":
        return 0
    if not kind.length:
        return from_plain(kind, _scalar_of(kind, text, text, where), where)
    inner = text.strip("[]()")
    items = [item.strip() for item in inner.split(",")] if inner.strip() or kind.length > 0 else []
    return from_plain(kind, [_scalar_of(kind, item, text, where) for item in items], where)


def _scalar_of(kind: Kind, item: str, text: str, where: str) -> Any:
    if kind.base is str:
        return item.strip("\"'") if kind.length else item  # a list may be written as TOML has it
    try:
        return _BOOLS[item.lower()] if kind.base is bool else kind.base(item)
    except (ValueError, KeyError):
        raise _wrong_type(kind, text, where) from None


def _wrong_type(kind: Kind, value: object, where: str) -> RecipeError:
    example = f", such as {_EXAMPLES[kind.length]}" if kind.length in _EXAMPLES else ""
    return RecipeError(f"{where}: expected {kind}, found {shown(value)}", f"give {kind}{example}")


def shown(value: object) -> str:
    """`value`, whatever it is, in a few words for a message."""
    if type(value) is int and value.bit_length() >= _BITS:  # Python does not write out the largest
        return f"a number of {value.bit_length()} bits"
    return value[:_SHOWN] if isinstance(value, str) and value else reprlib.repr(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean NAME?` with the nearest of `known`, or an empty text where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def unknown_key(key: str, known: Iterable[str], where: str) -> RecipeError:
    """The error for a key that no field has; its hint suggests the nearest or lists all."""
    names = list(known)
    return RecipeError(
        f"{where}: unknown key {shown(key)!r}", did_you_mean(key, names) or f"the keys are {', '.join(names)}"
    )
