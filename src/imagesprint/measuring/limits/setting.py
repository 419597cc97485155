"""What there is to change about a training: found from its recipe, its ranks and the ROOT that it reads."""

import os

from imagesprint.measuring.limits.advice import ROOM, Setting, Variant
from imagesprint.measuring.limits.run_figures import PhaseFigures
from imagesprint.recipes.recipe import Phase
from imagesprint.records.dataset import Root, variant_size


def find_setting(found: PhaseFigures, phase: Phase, root: Root | None, cores: int) -> Setting:
    """Return the setting of `phase`, of which `found` holds the figures; `cores` are those of the machine, 0 where they
    are not known, and `root` is None where it is not known either.
    """
    source = None if root is None else root.nearest(phase.source)
    return Setting(
        phase=found.phase,
        image_size=phase.image_size,
        variant=source or phase.source,
        world_size=found.world_size,
        threads=found.threads,
        spare_cores=max(0, cores // found.world_size - found.threads),
        device="cuda" if found.figures.copy > 0 else "cpu",
        decoder=found.decoder,
        source=None if root is None or source is None else _variant(root, source),
        smaller=() if root is None or source is None else _smaller(root, source, phase.image_size),
    )


def cores_here() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _smaller(root: Root, source: str, image_size: int) -> tuple[Variant, ...]:
    fits = [name for name in root.variants if ROOM * image_size <= variant_size(name) < variant_size(source)]
    return tuple(_variant(root, name) for name in fits)


def _variant(root: Root, name: str) -> Variant:
    dataset = root.dataset(name, "train")
    pixels = dataset.sizes.astype("int64").prod(axis=1)
    return Variant(name, dataset.image_format == "raw", float(dataset.encoded_lengths.mean()), float(pixels.mean()))
