"""What would help a stage, as far as it applies, with what it would save; and what there is to change."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from imagesprint.diagnosis.verdict import LOADING, Figures, PhaseFigures, saved_by
from imagesprint.recipes.recipe import Phase
from imagesprint.records.dataset import Root, variant_size

_NATIVE_SPEEDUP: Final = 2.0  # over Pillow, per core: `bench data`, docs/loader.md
_SIDES: Final = {"160": 160, "320": 320}  # of the variants that `prepare` makes beside full
ROOM: Final = 8 / 7  # a variant's shorter side over the crops' size at least: 256 for 224, as is usual
_FEWER: Final = 4  # checkpoints, in case they take longer than the steps between them

ANOTHER_RESULT: Final = "changes the result"


@dataclass(frozen=True)
class Variant:
    """A variant of a ROOT: its name, whether it holds raw pixels, and its images' mean bytes and mean pixels."""

    name: str
    is_raw: bool
    mean_bytes: float
    mean_pixels: float


@dataclass(frozen=True)
class Setting:
    """What there is to change about phase number `phase` of a training.

    `threads` decode for each of `world_size` ranks, and `spare_cores` more could (0 also where that is not known).
    `source` is the variant that is read, `smaller` those of its ROOT that are smaller and large enough for the crops;
    None and empty where the ROOT is not known.
    """

    phase: int
    image_size: int
    variant: str
    world_size: int
    threads: int
    spare_cores: int = 0
    device: str = "cpu"
    decoder: str = "native"
    source: Variant | None = None
    smaller: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class Advice:
    """One thing to do, and the seconds a step that it would save; None where that is not known."""

    what: str
    saved: float | None


def advise(stage: str, figures: Figures, setting: Setting) -> list[Advice]:
    """Return what would help one of STAGES, in order of what it would save."""
    advice = _BY_STAGE[stage](figures, setting)
    return sorted(advice, key=lambda each: -(each.saved or 0.0))


def _decode(figures: Figures, setting: Setting) -> list[Advice]:
    advice = _more_threads(figures, setting) + _smaller_variants(figures, setting)
    if setting.decoder == "pillow":
        what = "install the native decoder (imagesprint doctor says what it lacks)"
        advice.append(Advice(what, saved_by(figures, {"decode": figures.decode * (1 - 1 / _NATIVE_SPEEDUP)})))
    raw = _raw(figures, setting)
    return advice if raw is None else [*advice, raw]


def _more_threads(figures: Figures, setting: Setting) -> list[Advice]:
    if setting.spare_cores < 1:
        return []
    more = setting.spare_cores
    left = setting.threads / (setting.threads + more)
    freed = {"read": figures.read * (1 - left), "decode": figures.decode * (1 - left)}
    what = f"{more} more thread{'s' if more > 1 else ''}: unset OMP_NUM_THREADS, or set it to {setting.threads + more}"
    return [Advice(what, saved_by(figures, freed))]


def _smaller_variants(figures: Figures, setting: Setting) -> list[Advice]:
    """Variants that are there, else one that could be: time is near enough proportional to the bytes of a JPEG."""
    source = setting.source
    if source is None or (not setting.smaller and not source.is_raw):
        return _variant_to_prepare(figures, setting)
    advice = []
    for variant in setting.smaller:
        if variant.is_raw == source.is_raw:
            freed = _all_but(figures, variant.mean_bytes / source.mean_bytes)
            what = f"--set phases.{setting.phase}.source={variant.name}, which {ANOTHER_RESULT}"
            advice.append(Advice(what, saved_by(figures, freed)))
    return advice


def _variant_to_prepare(figures: Figures, setting: Setting) -> list[Advice]:
    fitting = [name for name, side in _SIDES.items() if side >= ROOM * setting.image_size]
    if not fitting or not _is_larger(setting, _SIDES[fitting[0]]):
        return []
    name, source = fitting[0], setting.source
    what = f"imagesprint prepare SOURCE ROOT --variants {name}, and --set phases.{setting.phase}.source={name}"
    if source is None:
        return [Advice(f"{what}, which {ANOTHER_RESULT}", None)]
    left = min(1.0, _SIDES[name] ** 2 * 4 / 3 / source.mean_pixels)  # of 4:3, as most photos are
    return [Advice(f"{what}, which {ANOTHER_RESULT}", saved_by(figures, _all_but(figures, left)))]


def _all_but(figures: Figures, left: float) -> dict[str, float]:
    """What of each part of loading is saved where so much of the bytes is left."""
    return {stage: figures.seconds_of(stage) * (1 - left) for stage in LOADING}


def _is_larger(setting: Setting, side: int) -> bool:
    """Whether the variant that is read is larger than one of a shorter side of `side`."""
    if setting.source is not None:
        return setting.source.mean_pixels > side**2 * 4 / 3
    return setting.variant == "full" or int(setting.variant) > side


def _raw(figures: Figures, setting: Setting) -> Advice | None:
    """Raw pixels: nothing is left of what libjpeg does, and so many more bytes are read."""
    if setting.source is None or setting.source.is_raw or figures.jpeg_share == 0:
        return None
    growth = setting.source.mean_pixels * 3 / setting.source.mean_bytes
    freed = {"read": figures.read * (1 - growth), "decode": figures.own_load * figures.jpeg_share}
    what = f"a ROOT with variant {setting.variant} in raw, {growth:.1f} times the bytes: imagesprint prepare SOURCE "
    return Advice(f"{what}ROOT --variants {setting.variant} --format raw", saved_by(figures, freed))


def _storage(figures: Figures, setting: Setting) -> list[Advice]:
    what = (
        "train in the store's region; where the cache holds the whole variant (--cache, --cache-limit) later epochs "
        "wait for nothing: `imagesprint plan` says how large it is, `imagesprint doctor --data URL` what the store does"
    )
    rest = _smaller_variants(figures, setting)
    return [Advice(what, saved_by(figures, {"storage": figures.storage})), *rest]


def _read(figures: Figures, setting: Setting) -> list[Advice]:
    what = "put the ROOT on a faster disk, a local one, or where memory is free for all of it to stay in"
    rest = _more_threads(figures, setting) + _smaller_variants(figures, setting)
    return [Advice(what, saved_by(figures, {"read": figures.read})), *rest]


def _copy(figures: Figures, _: Setting) -> list[Advice]:
    what = "look at the GPU's link (nvidia-smi -q -d PCIE: width and generation), and at what else uses it"
    return [Advice(what, saved_by(figures, {"copy": figures.copy}))]


def _compute(figures: Figures, setting: Setting) -> list[Advice]:
    advice = [
        Advice("the device works all the time: `imagesprint bench step` shows on what, and what it could do", None)
    ]
    if setting.device == "cpu":
        advice.append(
            Advice("a GPU, or smaller images in the early phases (imagesprint recipes show minutes104)", None)
        )
    else:
        half = saved_by(figures, {"compute": figures.compute / 2})
        advice.append(Advice(f"twice as many GPUs: --processes {2 * setting.world_size}", half))
    return advice


def _reduction(figures: Figures, setting: Setting) -> list[Advice]:
    what = f"larger steps, which reduce less often: --set phases.{setting.phase}.batch_size=…, twice as large, which "
    half = saved_by(figures, {"reduction": figures.reduction / 2})
    link = "a faster link between the ranks; docs/scaling.md has what a link allows"
    return [Advice(link, None), Advice(what + ANOTHER_RESULT, half)]


def _straggler(figures: Figures, _: Setting) -> list[Advice]:
    rank = figures.straggling_rank
    what = (
        f"look at rank {rank}'s machine: other programs on its cores (top), a hot or shared GPU (nvidia-smi), its disk"
    )
    return [Advice(what, saved_by(figures, {"straggler": figures.straggler}))]


def _checkpoint(figures: Figures, _: Setting) -> list[Advice]:
    fewer = max(_FEWER, math.ceil(2 * (figures.checkpoint + figures.checkpoint_writing) / figures.step))
    freed = {"checkpoint": figures.checkpoint * (1 - 1 / fewer)}
    return [
        Advice(f"write {fewer} times as seldom: --checkpoint-every", saved_by(figures, freed)),
        Advice("a faster disk for the run directory", None),
    ]


def _evaluation(figures: Figures, _: Setting) -> list[Advice]:
    half = saved_by(figures, {"evaluation": figures.evaluation / 2})
    return [Advice("evaluate every second time: --set eval_every=…, twice as large", half)]


_BY_STAGE: Final[Mapping[str, Callable[[Figures, Setting], list[Advice]]]] = {
    "storage": _storage,
    "read": _read,
    "decode": _decode,
    "copy": _copy,
    "compute": _compute,
    "reduction": _reduction,
    "straggler": _straggler,
    "checkpoint": _checkpoint,
    "evaluation": _evaluation,
}


def find_setting(found: PhaseFigures, phase: Phase, root: Root | None, cores: int) -> Setting:
    """Return the setting of `phase`, of which `found` holds the figures; `cores` are those of the machine, 0 where they
    are not known, and `root` is None where it is not known either.
    """
    setting = Setting(
        phase=found.phase,
        image_size=phase.image_size,
        variant=phase.source,
        world_size=found.world_size,
        threads=found.threads,
        spare_cores=max(0, cores // found.world_size - found.threads),
        device="cuda" if found.figures.copy > 0 else "cpu",
        decoder=found.decoder,
    )
    if root is None:
        return setting
    source = root.nearest(phase.source)
    fits = [name for name in root.variants if ROOM * phase.image_size <= variant_size(name) < variant_size(source)]
    smaller = tuple(_variant(root, name) for name in fits)
    return replace(setting, variant=source, source=_variant(root, source), smaller=smaller)


def cores_here() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _variant(root: Root, name: str) -> Variant:
    dataset = root.dataset(name, "train")
    pixels = dataset.sizes.astype("int64").prod(axis=1)
    return Variant(name, dataset.image_format == "raw", float(dataset.encoded_lengths.mean()), float(pixels.mean()))
