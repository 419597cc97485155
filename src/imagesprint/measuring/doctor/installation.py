"""Python, the packages that imagesprint needs or can use, and its decoder."""

import importlib
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import features

from imagesprint.errors import UsageError
from imagesprint.images.decoders import VARIABLE, chosen_decoder, describe_decoder
from imagesprint.images.native_library import LIBRARY, library
from imagesprint.measuring.doctor.check import Check, failure, ok, warning

_PACKAGE: Final = "imagesprint"
_FOR_DEVELOPERS: Final = ("dev", "interop")  # extras that no verb needs
_PILLOW_COSTS: Final = "images load two to five times slower"  # 2.3 to 4.7: benchmarks/results/2026-11-21-bench-data.md
_LIBJPEG: Final = re.compile(rb"libjpeg-turbo version ([0-9.]+)")  # text inside the library


def python() -> Check:
    """Python's version against the one that is needed."""
    version, wanted = platform.python_version(), metadata.metadata(_PACKAGE)["Requires-Python"]
    found = f"{version}, {sys.executable}"
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return failure("python", f"{found}, but {wanted} is needed", f"make a venv with a Python {wanted}")
    return ok("python", found)


def packages() -> Check:
    """The packages that are needed, by their versions; none is imported."""
    needs = _requirements("")
    wrong = [need for need in needs if not _is_met(need)]
    if wrong:
        found = ", ".join(f"{need.name} {_version(need.name) or 'is not installed'}" for need in wrong)
        return failure("packages", found, "pip install " + " ".join(f"'{need.name}{need.specifier}'" for need in wrong))
    return ok("packages", f"imagesprint {_version(_PACKAGE)}, and the {len(needs)} that it needs")


def pytorch() -> Check:
    """Whether PyTorch can be imported, without which nothing is known of devices."""
    try:
        import torch
    except Exception as error:  # OSError where a library is missing, and whatever a bad build raises
        hint = "pip install --force-reinstall torch, or make a new venv"
        return failure("pytorch", f"cannot be imported: {type(error).__name__}: {error}", hint)
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return ok("pytorch", f"{torch.__version__}, built {built}")


def optional_packages() -> list[Check]:
    """One check an extra, and one for `timm:NAME` models, which no extra installs: it would replace torch.

    What is installed is imported.
    """
    extras = [
        extra for extra in metadata.metadata(_PACKAGE).get_all("Provides-Extra") or [] if extra not in _FOR_DEVELOPERS
    ]
    return [
        *(
            _optional(
                f"extra {extra}", [need.name for need in _requirements(extra)], f"pip install '{_PACKAGE}[{extra}]'"
            )
            for extra in extras
        ),
        _optional(
            "timm", ["torchvision", "timm"], "first a torchvision made for this torch: pip may replace torch else"
        ),
    ]


def _optional(name: str, needs: Sequence[str], how: str) -> Check:
    there = [need for need in needs if _version(need) is not None]
    for need in there:
        try:
            importlib.import_module(need.replace("-", "_"))
        except Exception as error:  # as above
            why = f"{need} {_version(need)} cannot be imported: {' '.join(str(error).split())}"
            return warning(name, why, f"install a version of {need} that fits the other packages, or remove it")
    found = [f"{need} {_version(need) or 'is not installed'}" for need in needs]
    return ok(name, ", ".join(found), "" if len(there) == len(needs) else f"optional; {how}")


def decoder() -> Check:
    """Which decoder is at work, and why it is not the native one where it is not."""
    name = "decoder"
    try:
        described, chosen = describe_decoder(), chosen_decoder()
    except UsageError as error:
        return failure(name, error.what, error.hint)
    if chosen == "pillow":
        return warning(name, f"{described}: {_PILLOW_COSTS}", f"unset {VARIABLE}")
    try:
        library()
    except UsageError as error:
        return warning(name, f"pillow, so {_PILLOW_COSTS}: {error.what}", error.hint)
    return ok(name, described)


def libjpeg() -> Check:
    """The versions of libjpeg-turbo that decode: the native decoder's and Pillow's."""
    native, pillow = _native_libjpeg(), features.version("libjpeg_turbo")
    found = f"libjpeg-turbo {native or 'of an unknown version'} in the native decoder, " if native is not None else ""
    if pillow is None:
        hint = "pip install --force-reinstall pillow brings one that has it"
        return warning("libjpeg", f"{found}none in Pillow {_version('pillow')}, which then decodes slower", hint)
    return ok("libjpeg", f"{found}{pillow} in Pillow")


def _native_libjpeg() -> str | None:
    """What the library that is mapped into this process says of itself; "" where it does not, None without one."""
    try:
        library()
    except UsageError:
        return None
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    ours = [Path(file) for file in mapped if Path(file).name.startswith("libjpeg.so")]  # Pillow's name has a hash
    for file in (*ours, LIBRARY):  # where it was linked statically, it is inside ours
        if match := _LIBJPEG.search(file.read_bytes()):
            return match[1].decode()
    return ""


def _requirements(extra: str) -> list[Requirement]:
    """What the package needs always, or for `extra` alone."""
    needs = [Requirement(text) for text in metadata.requires(_PACKAGE) or []]
    return [need for need in needs if bool(extra) == bool(need.marker) and (not extra or _is_of(need, extra))]


def _is_of(need: Requirement, extra: str) -> bool:
    return need.marker is not None and need.marker.evaluate({"extra": extra})


def _is_met(need: Requirement) -> bool:
    version = _version(need.name)
    return version is not None and need.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
